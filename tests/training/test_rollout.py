"""rollout.py: what is stored of a collect, replayed slowly from the stored actions."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from darlr_jax.agents.recommender import learned_value
from darlr_jax.training.rollout import collect, record_estimates, state_reward_scale
from darlr_jax.types import EMPTY, UNVISITED
from tests import reference_simulation as reference
from tests.simulation.worlds import (
    assemble,
    first_state,
    invented_world_model,
    logged_walks,
    roll_out,
    tiny,
    tiny_dataset,
)

# So few users and items that cells are hit twice in a turn, and again in later turns;
# lambdas at which every term of the reward shows.
SMALL = {
    "dataset__synthetic__num_users": 6,
    "dataset__synthetic__num_items": 5,
    "environment__exit_rule": "tags",
    "environment__exit_window": 2,
    "environment__exit_threshold": 1.0,
    "selector__k_sel": 2,
    "reward__lambda_u": 0.3,
    "reward__lambda_e": 0.7,
    "training__environments": 16,
}
METHODS = {
    "mbpo": tiny("mbpo", **SMALL),
    "dorl": tiny("dorl", **SMALL),
    "roler": tiny("roler", **SMALL | {"tracker__kind": "average"}),
    "darlr": tiny("darlr", **SMALL),
    "darlr_nearest": tiny("darlr_nearest", **SMALL),
    "darlr_self": tiny("darlr_self", **SMALL),
    "static penalty": tiny(
        "darlr_nearest", **SMALL, reward__uncertainty="ensemble_variance"
    ),
    "overwrite": tiny("darlr_nearest", **SMALL, reward__overwrite=True),
}


def two_collects(config):
    """Two collects of one untrained policy, the second with the store of the first."""
    state = first_state(config)
    first, store = roll_out(config, state, 1)
    second, store = roll_out(config, state.replace(previous_estimates=store), 2)
    return [first, second], np.asarray(store)


def entropies_of(config):
    """A dictionary for each order of the entropy bonus."""
    walks = logged_walks(tiny_dataset(config.dataset))
    orders = config.reward.entropy_orders
    return [reference.entropy_dictionary(walks, order) for order in orders]


def bounds_of(config):
    """MIN_R and MAX_R of a method's shaped rewards."""
    world = invented_world_model(tiny_dataset(config.dataset))
    dynamic = config.reward.uncertainty == "dynamic"
    return reference.reward_bounds(
        world.prediction,
        world.variance * (not dynamic),
        entropies_of(config),
        config.reward.lambda_u,
        config.reward.lambda_e,
    )


def simulator(config):
    """The slow twin of a method, tables included."""
    world = invented_world_model(tiny_dataset(config.dataset))
    variance = world.variance
    static = world.prediction
    if config.reward.estimate == "neighbours":
        static = reference.neighbour_reward(static, static, 3, "cosine_norm")
    penalised = config.reward.uncertainty == "ensemble_variance"
    return reference.Simulator(
        base=world.prediction,
        static=static,
        uncertainty=variance * penalised,
        feedback=world.prediction,
        entropy={
            k: v for of_order in entropies_of(config) for k, v in of_order.items()
        },
        orders=config.reward.entropy_orders,
        lambda_u=config.reward.lambda_u,
        lambda_e=config.reward.lambda_e,
        floor=config.reward.denominator_floor,
        shift=bounds_of(config)[0],
        dynamic=config.reward.uncertainty == "dynamic",
        overwrite=config.reward.overwrite,
    )


def picked_users(config, transitions, turn, row):
    """The reference users of a transition, None for a method without any."""
    user = int(transitions.user[turn, row])
    if config.reward.references == "learned":
        return transitions.selector.users[turn, row].tolist()
    prediction = invented_world_model(tiny_dataset(config.dataset)).prediction
    k_sel = config.selector.k_sel
    return {
        "none": None,
        "self": [user],
        "nearest": reference.nearest(prediction, user, k_sel, include_self=False),
    }[config.reward.references]


def turns(transitions):
    """For each turn: (row, user, item, past items) of every session still going."""
    num_turns, rows = transitions.item.shape
    for turn in range(num_turns):
        yield turn, [
            (row, int(transitions.user[turn, row]), int(transitions.item[turn, row]),
             transitions.item[:turn, row].tolist())
            for row in range(rows) if transitions.weight[turn, row]
        ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_shaped_rewards_and_store_against_a_slow_simulator(method):
    config = METHODS[method]
    slow = simulator(config)
    collects, store = two_collects(config)
    hits, revisits, ended = 0, 0, 0
    for transitions in collects:
        for turn, sessions in turns(transitions):
            recommendations = [
                (user, item, past, picked_users(config, transitions, turn, row))
                for row, user, item, past in sessions
            ]
            rows = [row for row, *_ in sessions]
            cells = [(user, item) for user, item, *_ in recommendations]
            hits += len(cells) - len(set(cells))
            known = [cell in slow.stored for cell in cells]
            revisits += sum(known)
            if slow.dynamic or slow.overwrite:
                first = transitions.metrics["first_visits"][turn, rows]
                np.testing.assert_array_equal(first, np.logical_not(known))
            else:
                assert "first_visits" not in transitions.metrics
            ended += transitions.item.shape[1] - len(rows)
            estimates, rewards = slow.turn(recommendations)
            found = transitions.metrics["estimate"][turn, rows]
            np.testing.assert_allclose(found, estimates, rtol=1e-5, atol=1e-5)
            found = transitions.reward[turn, rows]
            np.testing.assert_allclose(found, rewards, rtol=1e-4, atol=1e-4)
    assert min(hits, revisits, ended) > 0  # or this test would show little
    if slow.dynamic or slow.overwrite:
        expected = np.full(slow.base.shape, UNVISITED)
        for cell, value in slow.stored.items():
            expected[cell] = value
        np.testing.assert_allclose(store, expected, rtol=1e-5, atol=1e-5)
    else:
        assert store.shape == (0, 0)


@pytest.mark.parametrize("method", ["dorl", "darlr"])
def test_shaped_rewards_enter_the_state_over_their_range(method):
    """Protocol 4.1: r / (MAX_R - MIN_R); rewards have been shifted by MIN_R."""
    experiment = assemble(METHODS[method])
    low, high = bounds_of(METHODS[method])

    scale = state_reward_scale(experiment.tables.rewards, experiment.coefficients)

    assert abs(low) > 0.01
    np.testing.assert_allclose(scale, (0.0, high - low), rtol=1e-5)


def test_random_references_are_some_other_users():
    """Each transition is explained by exactly one set of K_sel other users."""
    config = tiny("darlr_random", **SMALL)
    slow = simulator(config)
    users = range(config.dataset.synthetic.num_users)
    seen = set()
    for transitions in two_collects(config)[0]:
        for turn, sessions in turns(transitions):
            recommendations = []
            for row, user, item, past in sessions:
                metrics = {k: v[turn, row] for k, v in transitions.metrics.items()}
                sets = [
                    picked
                    for picked in itertools.combinations(set(users) - {user}, 2)
                    if np.isclose(
                        metrics["estimate"],
                        reference.mean([slow.base[pick, item] for pick in picked]),
                        atol=1e-5,
                    )
                    and np.isclose(
                        metrics["similarity"],
                        np.mean(
                            reference.similarity_gains(user, picked, slow.feedback)
                        ),
                        atol=1e-5,
                    )
                ]
                assert len(sets) == 1
                recommendations.append((user, item, past, sets[0]))
                seen.add((user, sets[0]))
            _, rewards = slow.turn(recommendations)
            rows = [row for row, *_ in sessions]
            found = transitions.reward[turn, rows]
            np.testing.assert_allclose(found, rewards, rtol=1e-4, atol=1e-4)
    assert len(seen) > 30  # of the 6 * 10 there are


@pytest.mark.parametrize("method", ["mbpo", "darlr"])
@pytest.mark.parametrize("window", [2, 4])
def test_weights_discounts_and_observations_tell_one_story(method, window):
    config = tiny(method, **SMALL, tracker__window=window)
    dataset = tiny_dataset(config.dataset)
    tags = [set(np.flatnonzero(row).tolist()) for row in dataset.item_tags]
    transitions, _ = roll_out(config, first_state(config))
    num_turns, rows = transitions.item.shape
    assert (num_turns, rows) == (config.environment.max_turn, 16)
    for row in range(rows):
        past, paid, alive = [], [], True
        assert len(set(transitions.user[:, row])) == 1
        for turn in range(num_turns):
            assert transitions.weight[turn, row] == alive
            if not alive:
                assert transitions.discount[turn, row] == 0
                continue
            start = reference.newest_first(past, dataset.num_items, EMPTY, window)
            assert transitions.observation.items[turn, row].tolist() == start
            rewards = reference.newest_first(paid, reference.START_REWARD, 0, window)
            found = transitions.observation.rewards[turn, row]
            np.testing.assert_array_equal(found, np.float32(rewards))
            item = int(transitions.item[turn, row])
            recent = reference.looked_at(past, 2, published=True)
            alive = not reference.leaves_by_tags(item, recent, tags, 1)
            past, paid = [*past, item], [*paid, transitions.reward[turn, row]]
            alive = alive and len(past) < num_turns
            assert transitions.discount[turn, row] == alive


@pytest.mark.parametrize("window", [1, 3, 20])  # of 10 turns
@pytest.mark.parametrize("readout", ["newest", "published"])
def test_values_are_those_of_the_states_that_will_be_learned(readout, window):
    config = tiny(
        "mbpo",
        **SMALL,
        tracker__kind="transformer",
        tracker__readout=readout,
        tracker__window=window,
        tracker__dropout=0.0,
    )
    experiment, state = assemble(config), first_state(config)
    transitions, _ = roll_out(config, state)
    tables = experiment.tables
    value = functools.partial(
        learned_value,
        state.recommender.params,
        jax.random.key(0),
        scale=state_reward_scale(tables.rewards, experiment.coefficients),
        networks=experiment.program.recommender,
    )

    expected = jax.jit(jax.vmap(jax.vmap(value)))(transitions.observation)

    assert len(np.unique(np.round(expected, 5))) > 5
    np.testing.assert_allclose(transitions.value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readout", ["newest", "published"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_values_of_separate_passes_differ_by_dropout_alone(readout, dropout):
    options = {"tracker__kind": "transformer", "tracker__readout": readout}
    config = tiny("mbpo", **SMALL, **options, tracker__dropout=dropout)
    apart = tiny(
        "mbpo",
        **SMALL,
        **options,
        tracker__dropout=dropout,
        recommender__value_passes="separate",
    )
    expected, _ = roll_out(config, first_state(config))
    found, _ = roll_out(apart, first_state(config))

    np.testing.assert_array_equal(found.item, expected.item)
    paid, pays = found.metrics["shaped_reward"], expected.metrics["shaped_reward"]
    np.testing.assert_array_equal(paid, pays)
    left, going_on = found.reward - expected.reward, expected.discount > 0
    assert going_on.any() and not going_on.all()
    if dropout:
        assert np.all(left[going_on] != 0)
        assert np.mean(found.value[going_on] != expected.value[going_on]) > 0.9
        np.testing.assert_array_equal(left[~going_on], 0)
    else:
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(left, 0, atol=1e-4)


def test_the_selector_is_paid_by_its_own_formula():
    """r_sel = running mean of the answers + lambda_s r_s + lambda_d r_d."""
    config = tiny("darlr", **SMALL, selector__lambda_s=0.5, selector__lambda_d=0.25)
    feedback = base = simulator(config).base
    transitions, _ = roll_out(config, first_state(config))
    overlaps = set()
    for turn, sessions in turns(transitions):
        for row, user, item, _ in sessions:
            picked = transitions.selector.users[turn, row].tolist()
            assert user not in picked
            assert len(set(picked)) == len(picked)
            answers = [float(base[pick, item]) for pick in picked]
            similarity = reference.similarity_gains(user, picked, feedback)
            diversity = reference.diversity_gains(picked, feedback)
            expected = [
                reference.mean(answers[: j + 1]) + 0.5 * s + 0.25 * d
                for j, (s, d) in enumerate(zip(similarity, diversity, strict=True))
            ]
            found = transitions.selector.reward[turn, row]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
            # And what is reported of the picks.
            metrics = {k: v[turn, row] for k, v in transitions.metrics.items()}
            expected = reference.mean(diversity)
            np.testing.assert_allclose(metrics["diversity"], expected, atol=1e-5)
            nearest = reference.nearest(feedback, user, 2, include_self=False)
            overlap = reference.mean([pick in nearest for pick in picked])
            assert metrics["knn_overlap"] == overlap
            overlaps.add(overlap)
    assert overlaps == {0.0, 0.5, 1.0}


def test_inflation_is_of_the_references_whatever_is_paid():
    config = tiny("darlr", **SMALL, reward__estimate="world_model")
    base = simulator(config).base
    transitions, _ = roll_out(config, first_state(config))
    alive = transitions.weight > 0
    answers = base[transitions.selector.users, transitions.item[..., None]]
    own = base[transitions.user, transitions.item]
    found = transitions.metrics["inflation"][alive]
    expected = (answers.mean(axis=-1) - own)[alive]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.any(np.abs(expected) > 0.1)
    paid = transitions.metrics["estimate"][alive]
    np.testing.assert_allclose(paid, own[alive], rtol=1e-5)


def test_masked_training_never_repeats_an_item():
    options = SMALL | {"environment__exit_rule": "none"}
    config = tiny("darlr", **options, recommender__mask_used_items=True)
    transitions, _ = roll_out(config, first_state(config))
    for row in range(transitions.item.shape[1]):
        items = transitions.item[:, row].tolist()
        assert len(set(items)) == len(items)
        for turn in range(len(items)):  # and learning will see the same mask
            used = set(np.flatnonzero(transitions.used[turn, row]).tolist())
            assert used == set(items[:turn])
    unmasked, _ = roll_out(tiny("darlr", **options), first_state(config))
    assert unmasked.used.shape[-1] == 0
    assert any(len(set(items)) < len(items) for items in unmasked.item.T.tolist())


@pytest.mark.parametrize("uncertainty", ["dynamic", "ensemble_variance"])
def test_warm_up_pays_by_the_neighbours_table_until_it_ends(uncertainty):
    options = SMALL | {"reward__uncertainty": uncertainty}
    config = tiny("darlr", **options, training__warm_up_epochs=2)
    rewards = assemble(config).tables.rewards
    prediction = np.asarray(rewards.base)
    static = reference.neighbour_reward(prediction, prediction, 3, "cosine_norm")
    for epoch in range(4):
        state = first_state(config).replace(epoch=jnp.int32(epoch))
        transitions, store = roll_out(config, state)
        estimate = transitions.metrics["estimate"]
        kept = epoch >= 2 and uncertainty == "dynamic"
        assert np.any(store != UNVISITED) == kept  # answers of references alone
        picked = transitions.selector.users
        references = prediction[picked, transitions.item[..., None]].mean(axis=-1)
        frozen = static[transitions.user, transitions.item]
        expected, other = (frozen, references) if epoch < 2 else (references, frozen)
        np.testing.assert_allclose(estimate, expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(estimate, other, atol=0.1)
        penalised = np.any(transitions.metrics["penalty"] != 0)
        assert penalised == (epoch >= 2)  # ROLeR's reward has no penalty


# --- the store of previous estimates --------------------------------------------------

CELLS = st.tuples(
    st.integers(0, 2),
    st.integers(0, 1),
    st.floats(-4, 4, width=32),
    st.booleans(),
)
record = jax.jit(record_estimates)


def recorded(hits):
    """The store after one turn, from an empty one."""
    users, items, values, alive = map(np.array, zip(*hits, strict=True))
    store = jnp.full((3, 2), UNVISITED, jnp.float32).at[2, 1].set(9.0)
    return np.asarray(
        record(store, users, items, np.float32(values), np.float32(alive))
    )


@given(st.lists(CELLS, min_size=6, max_size=6))
def test_a_cell_stores_the_mean_of_its_live_hits(hits):
    expected = np.full((3, 2), UNVISITED)
    expected[2, 1] = 9.0
    for cell in itertools.product(range(3), range(2)):
        values = [
            value for *where, value, alive in hits if alive and tuple(where) == cell
        ]
        if values:
            expected[cell] = reference.mean(values)
    np.testing.assert_allclose(recorded(hits), expected, rtol=1e-5, atol=1e-6)


def test_the_store_does_not_depend_on_the_order_of_the_environments():
    rng = np.random.default_rng(0)
    hits = [(0, 0, rng.normal(), True) for _ in range(5)]  # the sum of 5 can round
    hits += [(2, 1, rng.normal(), True), (0, 1, rng.normal(), True)]
    hits += [(0, 0, rng.normal(), False)]
    expected = recorded(hits)
    for _ in range(30):
        permuted = [hits[row] for row in rng.permutation(len(hits))]
        np.testing.assert_array_equal(recorded(permuted), expected)


@pytest.mark.parametrize("size", [1, 3, 16])  # of 16 sessions: 3 does not divide them
def test_sessions_served_in_groups_are_those_served_at_once(size):
    config = METHODS["darlr"]
    experiment, state = assemble(config), first_state(config)
    program = experiment.program._replace(sessions_at_once=size)
    inputs = (state, jax.random.key(1), experiment.tables, experiment.coefficients)

    found, store = jax.jit(functools.partial(collect, program=program))(*inputs)

    expected, expected_store = roll_out(config, state, 1)
    real = np.asarray(expected.weight) > 0
    assert 0 < real.sum() < real.size  # some sessions end early
    np.testing.assert_array_equal(found.weight, expected.weight)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(ours[real], theirs[real], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(store, expected_store, rtol=1e-5)
