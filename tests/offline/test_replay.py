"""replay.py: sessions cut by the exit rule, n-step returns, states of logged rows."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.config import EnvironmentConfig
from darlr_jax.data.dataset import DataError, InteractionLog
from darlr_jax.offline import replay
from darlr_jax.simulation import environment
from darlr_jax.simulation.tables import environment_params
from darlr_jax.types import EMPTY, EnvParams
from tests import reference_simulation as reference
from tests.simulation.worlds import (
    half_of_the_world,
    invented_world_model,
    tiny,
    tiny_dataset,
)

ITEMS = 6


def with_log(dataset, users, items, rewards, times=None, labels=None):
    """The data set with another log."""
    log = InteractionLog(
        users=np.array(users, np.int32),
        items=np.array(items, np.int32),
        labels=np.array(rewards if labels is None else labels, np.float32),
        rewards=np.array(rewards, np.float32),
        times=None if times is None else np.array(times),
    )
    return dataclasses.replace(dataset, log=log)


def build(dataset, **changes):
    config = tiny("sqn", **changes)
    return replay.build_replay(dataset, environment_params(dataset, config), config)


# --- sessions and returns -------------------------------------------------------------


def test_sessions_and_three_step_returns_by_hand():
    """Two users; items 0 and 1 share a tag, so that 0 -> 1 ends a session."""
    dataset = tiny_dataset(tiny().dataset)
    tags = np.zeros((dataset.num_items, 2), bool)
    tags[:2, 0] = tags[2:4, 1] = True  # 4 and later have none
    dataset = dataclasses.replace(dataset, item_tags=tags)
    logged = with_log(
        dataset,
        users=[0, 0, 0, 0, 0, 0, 3, 3],
        items=[0, 2, 3, 1, 4, 5, 4, 4],
        rewards=[1, 2, 3, 4, 5, 6, 7, 8],
        times=[10, 20, 30, 40, 50, 60, 1, 2],
    )
    got = build(logged, environment__exit_rule="tags", recommender__discount=0.5)
    # 2 -> 3 shares a tag: the session of rows 0 to 2 ends with row 2.
    assert got.turns.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    expected = [1 + 1 + 0.75, 2 + 1.5, 3, 4 + 2.5 + 1.5, 5 + 3, 6, 7 + 4, 8]
    np.testing.assert_allclose(got.returns, expected)
    assert got.discounts.tolist() == [0] * 8  # no session is longer than three
    got = build(
        logged,
        environment__exit_rule="tags",
        recommender__discount=0.5,
        offline__n_step=1,
    )
    np.testing.assert_allclose(got.returns, logged.log.rewards)
    np.testing.assert_allclose(got.discounts, [0.5, 0.5, 0, 0.5, 0.5, 0, 0.5, 0])
    assert got.scale == (1, 8)


def slow_turns(walk, tags, config):
    """The exit rule of a list of past items, row by row."""
    turns, past = [], []
    for item in walk:
        turns.append(len(past))
        recent = reference.looked_at(past, config.exit_window, config.published_window)
        left = reference.leaves_by_tags(item, recent, tags, config.exit_threshold)
        past = [] if past and left else [*past, item]
    return turns


@pytest.mark.parametrize(("window", "threshold"), [(1, 0), (4, 0), (4, 1)])
def test_turns_against_a_walk_row_by_row(window, threshold, monkeypatch):
    monkeypatch.setattr(replay, "_USERS_AT_ONCE", 4)
    monkeypatch.setattr(replay, "_ROWS_AT_ONCE", 16)
    rng = np.random.default_rng(window + threshold)
    tags = rng.random((ITEMS, 3)) < 0.4
    params = EnvParams(
        tags.astype(np.float32), np.zeros((0, 0)), np.float32(threshold), np.int32(1)
    )
    config = EnvironmentConfig(
        exit_rule="tags", exit_window=window, exit_threshold=threshold
    )
    walks = [rng.integers(0, ITEMS, n).astype(np.int32) for n in (3, 40, 1, 17, 9, 2)]
    lengths = np.array([len(walk) for walk in walks])
    found = replay.session_turns(np.concatenate(walks), lengths, params, config)
    sets = [set(np.flatnonzero(row).tolist()) for row in tags]
    expected = [turn for walk in walks for turn in slow_turns(walk, sets, config)]
    assert found.tolist() == expected
    assert np.count_nonzero(found == 0) > len(walks)  # some left before their end


def test_where_nobody_leaves_a_user_is_one_session():
    config = EnvironmentConfig(exit_rule="none", max_turn=2)
    found = replay.session_turns(np.zeros(5, np.int32), np.array([3, 2]), None, config)
    assert found.tolist() == [0, 1, 2, 0, 1]  # max_turn is the simulation's


def slow_returns(rewards, turns, n, discount):
    ends = [*(t == 0 for t in turns[1:]), True]
    returns, discounts = [], []
    for row in range(len(rewards)):
        total, factor, open_ = 0.0, 1.0, True
        for k in range(n):
            total += factor * rewards[row + k]
            factor *= discount
            if ends[row + k]:
                open_ = False
                break
        returns.append(total)
        discounts.append(factor if open_ else 0.0)
    return returns, discounts


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6),
    n=st.integers(1, 9),
    seed=st.integers(0, 100),
)
def test_returns_against_a_loop(lengths, n, seed):
    turns = np.concatenate([np.arange(length) for length in lengths])
    rewards = np.random.default_rng(seed).normal(size=len(turns)).astype(np.float32)
    found = replay.n_step_returns(rewards, turns, n, 0.9)
    expected = slow_returns(rewards.tolist(), turns.tolist(), n, 0.9)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-6)


# --- which rows, in which order -------------------------------------------------------


def test_rows_are_in_order_of_user_and_time():
    dataset = tiny_dataset(tiny().dataset)
    logged = with_log(
        dataset, [1, 0, 1, 0], [4, 5, 6, 7], [1, 2, 3, 4], times=[9, 8, 3, 8]
    )
    got = build(logged)
    assert got.items.tolist() == [5, 7, 6, 4]  # equal times: as logged
    assert got.rewards.tolist() == [2, 4, 3, 1]


def test_feedback_without_order_gets_a_random_one_within_each_user():
    dataset = tiny_dataset(tiny().dataset)
    users = np.repeat([0, 1, 2], 10)
    logged = with_log(dataset, users, np.tile(np.arange(10), 3), np.arange(30) % 7)
    plain = build(logged, offline__order="logged")
    assert plain.items.tolist() == list(range(10)) * 3
    mixed = build(logged).items.reshape(3, 10)
    assert np.sort(mixed, axis=1).tolist() == [list(range(10))] * 3
    assert len({tuple(row) for row in mixed}) == 3  # another one each
    np.testing.assert_array_equal(mixed.ravel(), build(logged).items)


def test_every_logged_user_counts_and_only_actions_do():
    dataset = tiny_dataset(tiny().dataset)
    half, _ = half_of_the_world(dataset, invented_world_model(dataset))
    got = build(half)  # 5 of 12 users, and the items 2 to 5
    rows = np.isin(dataset.log.items, half.environment_items)
    assert len(got.items) == rows.sum()
    counts = np.bincount(dataset.log.items[rows] - 2, minlength=4)
    assert np.bincount(got.items, minlength=4).tolist() == counts.tolist()
    assert (got.turns == 0).sum() == len(np.unique(dataset.log.users[rows]))


def test_labels_are_learned_but_not_shown():
    dataset = tiny_dataset(tiny().dataset)
    logged = with_log(dataset, [0, 0], [1, 2], [1, 5], times=[1, 2], labels=[-1, 1])
    got = build(logged, offline__feedback="label", offline__n_step=1)
    assert got.returns.tolist() == [-1, 1]
    assert got.rewards.tolist() == [1, 5]
    assert got.scale == (1, 5)


@pytest.mark.parametrize(
    ("items", "rewards", "message"),
    [([0, 1], [1, 2], "no logged row is of an action"), ([3, 4], [2, 2], "paid 2")],
)
def test_a_log_with_nothing_to_learn_is_refused(items, rewards, message):
    dataset = tiny_dataset(tiny().dataset)
    half, _ = half_of_the_world(dataset, invented_world_model(dataset))
    with pytest.raises(DataError, match=message):
        build(with_log(half, [0, 1], items, rewards))


# --- minibatches ----------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 3])
def test_a_row_shows_what_a_session_that_went_this_way_shows(window):
    dataset = tiny_dataset(tiny().dataset)
    got = build(dataset, environment__exit_rule="tags")
    rows = jnp.arange(len(got.items))
    seen = replay.observe(
        jax.tree.map(jnp.asarray, got),
        rows,
        window=window,
        num_items=dataset.num_items,
    )
    config = EnvironmentConfig(exit_rule="none", max_turn=1000)
    step = jax.jit(functools.partial(environment.step, config=config))
    params = EnvParams(np.zeros((10, 1)), np.zeros((0, 0)), np.float32(0), np.int32(1))
    fresh = environment.reset(jnp.int32(0), dataset.num_items, window)
    for row in range(40):
        state = fresh if got.turns[row] == 0 else state  # noqa: F821
        expected = environment.observe(state, window)
        assert seen.items[row].tolist() == expected.items.tolist()
        shown = np.array(expected.items) != EMPTY
        np.testing.assert_array_equal(seen.rewards[row][shown], expected.rewards[shown])
        state = step(state, jnp.int32(got.items[row]), got.rewards[row], params)


def test_drawn_rows_look_n_rows_ahead():
    dataset = tiny_dataset(tiny().dataset)
    rewards = np.random.default_rng(0).normal(size=len(dataset.log))  # tell rows apart
    log = dataset.log
    logged = with_log(dataset, log.users, log.items, rewards, log.times)
    got = jax.tree.map(jnp.asarray, build(logged))
    options = {"window": 2, "num_items": dataset.num_items}
    draw = functools.partial(replay.draw, size=200, n=3, **options)
    sample = jax.jit(draw)(jax.random.key(0), got)
    rows = jnp.argmax(sample.returns[:, None] == got.returns[None, :], axis=1)
    assert len(set(rows.tolist())) > 100
    np.testing.assert_array_equal(got.items[rows], sample.item)
    np.testing.assert_array_equal(got.discounts[rows], sample.discount)
    before = replay.observe(got, rows, **options)
    np.testing.assert_array_equal(before.items, sample.observation.items)
    goes_on = sample.discount > 0
    ahead = replay.observe(got, rows[goes_on] + 3, **options)
    np.testing.assert_array_equal(ahead.items, sample.following.items[goes_on])
    np.testing.assert_array_equal(ahead.rewards, sample.following.rewards[goes_on])
