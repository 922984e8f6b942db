"""tables.py: a method's tables against loops over users and items."""

from __future__ import annotations

import dataclasses

import chex
import jax
import numpy as np
import pytest

from darlr_jax.config import ConfigError
from darlr_jax.data import statistics
from darlr_jax.data.clusters import balanced_clusters
from darlr_jax.data.dataset import DataError
from darlr_jax.simulation.tables import (
    Neighbours,
    build_tables,
    find_neighbours,
    neighbour_reward,
)
from tests import reference_simulation as reference
from tests.simulation.worlds import (
    half_of_the_world,
    invented_world_model,
    tiny,
    tiny_dataset,
)

DATASET = tiny_dataset(tiny().dataset)
WORLD = invented_world_model(DATASET)
NUM_USERS = DATASET.num_users


def build(method="mbpo", dataset=DATASET, **changes):
    return build_tables(dataset, WORLD, tiny(method, **changes))


def close(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, NUM_USERS])
@pytest.mark.parametrize("weights", ["mean", "cosine", "cosine_div", "cosine_norm"])
def test_neighbour_reward(weights, k):
    tables = build("roler", reward__neighbour_weights=weights, reward__neighbours=k)
    expected = reference.neighbour_reward(
        WORLD.prediction, WORLD.prediction, k, weights
    )
    close(tables.rewards.static, expected)


def test_neighbours_by_logged_feedback():
    tables = build("roler", reward__neighbour_signature="logged")
    logged = statistics.logged_feedback(DATASET)
    expected = reference.neighbour_reward(WORLD.prediction, logged, 3, "cosine_norm")
    close(tables.rewards.static, expected)


def test_neighbour_rewards_of_some_users():
    every = build("roler").rewards.static
    some, reward = np.array([5, 0]), tiny("roler").reward
    neighbours = find_neighbours(DATASET, WORLD.prediction, reward, some)
    found = neighbour_reward(neighbours, reward)
    np.testing.assert_array_equal(found, every[some])


def test_weights_need_cosines_that_add_up_to_something():
    """Opposite users: shares of their sum, 0, would pay anything."""
    reward = tiny("roler").reward
    opposite = np.array([[1.0, 0.5], [-1.0, -0.5]], np.float32)
    cosines = np.array([[1.0, -1.0]] * 2, np.float32)
    pair = np.array([[0, 1], [1, 0]], np.int32)
    with pytest.raises(DataError, match=r"a user's 2 neighbours add up to 0,"):
        neighbour_reward(Neighbours(pair, opposite, cosines), reward)


def test_one_neighbour_is_the_user_herself():
    tables = build("roler", reward__neighbours=1, reward__neighbour_weights="cosine")
    np.testing.assert_array_equal(tables.rewards.static, WORLD.prediction)


def test_neighbour_variance_is_that_of_a_population():
    tables = build("mopo", reward__uncertainty="neighbour_variance")
    expected = reference.neighbour_variance(WORLD.prediction, WORLD.prediction, 3)
    close(tables.rewards.uncertainty, expected)


@pytest.mark.parametrize("reduction", ["min", "avg", "max"])
def test_neighbour_cosine(reduction):
    tables = build(
        "mopo",
        reward__uncertainty="neighbour_cosine",
        reward__neighbour_cosine=reduction,
    )
    expected = reference.neighbour_cosine(
        WORLD.prediction, WORLD.prediction, 3, reduction
    )
    close(tables.rewards.uncertainty, expected)


def test_population_mean_is_the_same_for_everybody():
    tables = build("population_mean")
    for item in range(DATASET.num_items):
        expected = reference.mean(WORLD.prediction[:, item])
        close(tables.rewards.static[:, item], [expected] * NUM_USERS)


def test_user_centred_removes_the_level_of_a_user():
    tables = build("user_centred")
    overall = reference.mean(WORLD.prediction.ravel())
    for user, row in enumerate(WORLD.prediction):
        expected = [value - reference.mean(row) + overall for value in row]
        close(tables.rewards.static[user], expected)


@pytest.mark.parametrize(
    ("method", "base", "static", "uncertainty"),
    [
        ("gt", DATASET.true_reward, DATASET.true_reward, None),
        ("mbpo", WORLD.prediction, WORLD.prediction, None),
        ("mopo", WORLD.prediction, WORLD.prediction, WORLD.variance),
        ("dorl", WORLD.prediction, WORLD.prediction, WORLD.variance),
        ("darlr", WORLD.prediction, WORLD.prediction, None),
    ],
)
def test_which_table_a_method_reads(method, base, static, uncertainty):
    rewards = build(method).rewards
    np.testing.assert_array_equal(rewards.base, base)
    np.testing.assert_array_equal(rewards.static, static)
    expected = np.zeros((0, 0)) if uncertainty is None else uncertainty
    np.testing.assert_array_equal(rewards.uncertainty, expected)
    close(rewards.item_mean, [reference.mean(column) for column in base.T])


@pytest.mark.parametrize("estimate", ["world_model", "population_mean", "user_centred"])
def test_frozen_rewards_are_in_the_unit_that_references_answer_in(estimate):
    """What is shifted and divided by the bounds of one table is not of another."""
    rewards = build(
        "darlr", reward__base="neighbours", reward__estimate=estimate
    ).rewards
    base = rewards.base
    assert not np.allclose(base, WORLD.prediction, atol=0.1)
    expected = {
        "world_model": base,
        "population_mean": np.tile(base.mean(axis=0), (NUM_USERS, 1)),
        "user_centred": base - base.mean(axis=1, keepdims=True) + base.mean(),
    }[estimate]
    close(rewards.static, expected)
    assert rewards.estimate_low == base.min()


@pytest.mark.parametrize(
    ("method", "group", "field"),
    [
        *(("mopo", "reward", name) for name in ("estimate", "uncertainty", "base")),
        *(("roler", "reward", name) for name in ("estimate", "uncertainty", "base")),
        ("darlr", "selector", "feedback"),
    ],
)
def test_a_table_that_nobody_makes_is_no_other(method, group, field):
    """A choice without code must not become the method that is written last."""
    config = tiny(method)
    changed = dataclasses.replace(getattr(config, group), **{field: "median"})
    with pytest.raises(NotImplementedError, match=f"{field}='median'"):
        build_tables(DATASET, WORLD, dataclasses.replace(config, **{group: changed}))


def test_with_a_warm_up_the_static_table_is_that_of_the_neighbours():
    warm = build("darlr", training__warm_up_epochs=1).rewards
    np.testing.assert_array_equal(warm.static, build("roler").rewards.static)
    np.testing.assert_array_equal(warm.base, WORLD.prediction)


@pytest.mark.parametrize("method", ["roler", "darlr"])
def test_neighbours_in_the_log_pay_what_they_got(method):
    """ROLeR on KuaiRec: both tables from logged rows of users outside (protocol 7)."""
    dataset, world = half_of_the_world(DATASET, WORLD)
    config = tiny(
        method,
        reward__neighbour_source="log",
        reward__base="neighbours" if method == "darlr" else "world_model",
        reward__uncertainty="neighbour_variance" if method == "roler" else "dynamic",
        reward__neighbours=3,
    )
    tables = build_tables(dataset, world, config).rewards

    logged = np.zeros((DATASET.num_logged_users, DATASET.num_logged_items))
    log = dataset.log
    for user, item, reward in zip(log.users, log.items, log.rewards, strict=True):
        logged[user, item] += reward
    others = [0, 1, *range(6, DATASET.num_logged_items)]
    mean, variance = [], []
    for user in range(5):
        seen = np.concatenate([logged[user : user + 1], logged[5:]])[:, others]
        near = [v + 4 for v in reference.nearest(seen, 0, 3, include_self=False)]
        rows = logged[near][:, 2:6]
        mean.append([reference.mean(column) for column in rows.T])
        variance.append(rows.var(axis=0) * 3 / 2)
    if method == "roler":
        close(tables.static, mean)
        close(tables.uncertainty, variance)
        np.testing.assert_array_equal(tables.base, world.prediction)
    else:
        close(tables.base, mean)
        assert tables.estimate_low == tables.base.min()


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("kind", ["logged", "predicted", "embedding"])
def test_feedback_vectors_and_their_cosines(kind, center):
    tables = build("darlr", selector__feedback=kind, selector__center_feedback=center)
    feedback = {
        "logged": statistics.logged_feedback(DATASET),
        "predicted": WORLD.prediction,
        "embedding": WORLD.user_vectors,
    }[kind].astype(np.float64)
    feedback = feedback - center * feedback.mean(axis=0)
    close(tables.users.feedback, feedback)
    everybody = range(NUM_USERS)
    for user in everybody:
        cosines = [reference.cosine(feedback[user], feedback[v]) for v in everybody]
        close(tables.users.similarity[user], cosines)
    near = [reference.nearest(feedback, u, 3, include_self=False) for u in everybody]
    assert tables.users.neighbours.tolist() == near


def test_environment_gets_distances_only_where_the_exit_rule_needs_them():
    assert build().env.item_distance.shape == (0, 0)
    env = build(environment__exit_rule="distance", environment__exit_threshold=2.5).env
    assert env.exit_threshold == 2.5
    assert env.item_distance.shape == (DATASET.num_items,) * 2
    first, second = DATASET.true_reward[:, 0], DATASET.true_reward[:, 1]
    close(env.item_distance[0, 1], np.sqrt(np.sum((first - second) ** 2)))


@pytest.mark.parametrize("method", ["darlr", "darlr_random", "darlr_nearest"])
def test_a_user_cannot_have_herself_as_a_reference(method):
    build(method, selector__k_sel=NUM_USERS - 1)
    with pytest.raises(
        ConfigError, match=r"selector\.k_sel=12: must be below .*\(12\)"
    ):
        build(method, selector__k_sel=NUM_USERS)


@pytest.mark.parametrize("size", [2, 3, 7, NUM_USERS - 1])
def test_a_pool_of_the_nearest_is_every_users_nearest_others(size):
    config = {"selector__k_sel": 2, "selector__pool_size": size}
    users = build("darlr", selector__pool="nearest", **config).users
    assert users.pool.dtype == np.int32
    for user, row in enumerate(users.pool):
        near = reference.nearest(WORLD.prediction, user, size, include_self=False)
        assert row.tolist() == sorted(near)
    plain = build("darlr", **config).users
    assert plain.pool is None
    chex.assert_trees_all_equal(users._replace(pool=None), plain)


@pytest.mark.parametrize(("size", "found"), [(0, 4), (1, 1), (5, 5), (12, 12)])
def test_a_pool_of_clusters_is_a_partition_of_the_feedback_vectors(size, found):
    users = build(
        "darlr",
        selector__pool="clusters",
        selector__cluster_size=size,
        selector__center_feedback=True,
    ).users
    expected = balanced_clusters(users.feedback, found)
    chex.assert_trees_all_equal(users.pool, expected)
    assert users.pool.members.shape == (-(-NUM_USERS // found), found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": "nearest", "pool_size": 12}, r"pool_size=12: must be below .*\(12\)"),
        ({"pool": "clusters", "cluster_size": 13}, "cluster_size=13: there are 12"),
    ],
)
def test_a_pool_must_fit_the_users(changes, message):
    changes = {f"selector__{name}": value for name, value in changes.items()}
    with pytest.raises(ConfigError, match=rf"selector\.{message}"):
        build("darlr", **changes)
    build("mbpo", **changes)  # of no interest without a selector


def test_k_sel_does_not_matter_without_references():
    users = build("mbpo", selector__k_sel=1000).users
    shapes = {table.shape for table in jax.tree.leaves(users)}
    assert shapes == {(0, 0)}  # nobody asks for them


def test_more_neighbours_than_users_are_refused():
    with pytest.raises(ConfigError, match=r"reward\.neighbours=13: there are 12 users"):
        build("roler", reward__neighbours=NUM_USERS + 1)


@pytest.mark.parametrize("method", ["mbpo", "gt", "darlr_random"])
def test_neighbours_do_not_matter_to_who_asks_none(method):
    build(method, reward__neighbours=NUM_USERS + 1)


def test_neighbours_in_the_log_are_compared_once(monkeypatch):
    dataset, world = half_of_the_world(DATASET, WORLD)
    config = tiny(
        "roler",
        reward__neighbour_source="log",
        reward__uncertainty="neighbour_variance",
        reward__neighbours=7,  # as many as there are outside, more than within
    )
    compared = []
    found = statistics.nearest_outsiders

    def counted(*arguments):
        compared.append(arguments)
        return found(*arguments)

    monkeypatch.setattr(statistics, "nearest_outsiders", counted)
    build_tables(dataset, world, config)
    assert len(compared) == 1


def test_true_ratings_reach_no_table_of_a_method_that_is_offline():
    other = dataclasses.replace(DATASET, true_reward=DATASET.true_reward[::-1].copy())
    for method in ("mbpo", "dorl", "roler", "darlr"):
        before, after = build(method), build(method, dataset=other)
        chex.assert_trees_all_equal(before, after)


def test_a_rule_about_tags_needs_tags():
    untagged = dataclasses.replace(DATASET, item_tags=DATASET.item_tags[:, :0])
    build(dataset=untagged)
    with pytest.raises(ConfigError, match="the items of synthetic have no tags"):
        build(dataset=untagged, environment__exit_rule="tags")
