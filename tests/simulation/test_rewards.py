"""rewards.py: each estimator against a loop, the shaped reward, and its bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.simulation import rewards
from darlr_jax.simulation.penalties import dynamic_uncertainty
from darlr_jax.types import UNVISITED, Coefficients, Estimate, References
from tests import reference_simulation as reference
from tests.simulation.worlds import assemble, logged_walks, tiny, tiny_dataset

EXPERIMENT = assemble(tiny("mopo"))
TABLES = EXPERIMENT.tables.rewards
# The estimators read them separately: make them differ.
TABLES = TABLES._replace(static=TABLES.base + 10.0)
NUM_USERS, NUM_ITEMS = TABLES.base.shape
COEFFICIENTS = Coefficients(*map(jnp.float32, (0.3, 0.7, 0.0, 0.0, 1e-3, 0.0)))

users = st.integers(0, NUM_USERS - 1)
items = st.integers(0, NUM_ITEMS - 1)
picks = st.lists(users, min_size=1, max_size=4, unique=True)


def store_of(stored):
    """The `[U, I]` store that holds the estimates of a dictionary."""
    store = np.full(TABLES.base.shape, UNVISITED, np.float32)
    for cell, value in stored.items():
        store[cell] = value
    return jnp.asarray(store)


def references(picked, similarity=0.4, diversity=0.2):
    full = jnp.full(len(picked), similarity), jnp.full(len(picked), diversity)
    return References(jnp.asarray(picked), *full)


def estimate(estimator, user, item, picked, stored):
    return estimator(
        jnp.int32(user),
        jnp.int32(item),
        None if picked is None else references(picked),
        store_of(stored),
        TABLES,
        COEFFICIENTS,
    )


@given(users, items)
def test_static_estimate_is_a_cell(user, item):
    found = estimate(rewards.static_estimate, user, item, None, {})
    assert found == Estimate(TABLES.static[user, item], TABLES.uncertainty[user, item])


def test_without_a_table_nothing_is_uncertain():
    certain = TABLES._replace(uncertainty=jnp.zeros((0, 0)))
    assert rewards.uncertainty_of(jnp.int32(3), jnp.int32(1), certain) == 0


@given(users, items, picks)
def test_reference_estimate_is_the_mean_of_the_base_table(user, item, picked):
    # Neither the own row nor what was stored enters.
    stored = {(pick, item): 99.0 for pick in picked}
    found = estimate(rewards.reference_estimate, user, item, picked, stored)
    expected = reference.mean([TABLES.base[pick, item] for pick in picked])
    np.testing.assert_allclose(found.value, expected, rtol=1e-5, atol=1e-6)
    assert found.uncertainty == TABLES.uncertainty[user, item]


@given(users, items, picks, st.integers(0, 4))
def test_overwritten_estimate_reads_what_is_stored(user, item, picked, visited):
    stored = {(pick, item): 7.0 + pick for pick in picked[:visited]}
    stored[user, (item + 1) % NUM_ITEMS] = 99.0  # of another item: not read
    found = estimate(rewards.overwritten_estimate, user, item, picked, stored)
    answers = [stored.get((p, item), TABLES.base[p, item]) for p in picked]
    np.testing.assert_allclose(
        found.value, reference.mean(answers), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    "estimator", [rewards.reference_estimate, rewards.overwritten_estimate]
)
@pytest.mark.parametrize("visited", [False, True])
@settings(max_examples=30)
@given(user=users, item=items, picked=picks)
def test_dynamic_uncertainty_measures_from_the_last_estimate(
    estimator, visited, user, item, picked
):
    stored = {(user, item): 6.5} if visited else {}
    dynamic = rewards.with_dynamic_uncertainty(estimator, dynamic_uncertainty)
    value = estimate(estimator, user, item, picked, stored).value
    found = estimate(dynamic, user, item, picked, stored)
    # Before the first visit the base table stands for the last estimate.
    previous = 6.5 if visited else float(TABLES.base[user, item])
    k = len(picked)
    expected = reference.dynamic_uncertainty(
        float(value), previous, [0.4] * k, [0.2] * k, 1e-3
    )
    assert found.value == value
    np.testing.assert_allclose(found.uncertainty, expected, rtol=1e-5, atol=1e-6)


@given(user=users, item=items, picked=picks)
def test_a_formula_is_told_what_the_references_answer(user, item, picked):
    """Each of them: how far they are apart is a penalty that it can be."""

    def spread(value, previous, answers, similarity, diversity, floor):
        return jnp.max(answers) - jnp.min(answers)

    stored = {(pick, item): 9.0 + pick for pick in picked}
    dynamic = rewards.with_dynamic_uncertainty(rewards.reference_estimate, spread)
    found = estimate(dynamic, user, item, picked, stored)
    expected = np.ptp([TABLES.base[pick, item] for pick in picked])
    np.testing.assert_allclose(found.uncertainty, expected, rtol=1e-6)


def test_an_estimate_of_references_needs_references():
    dynamic = rewards.with_dynamic_uncertainty(
        rewards.static_estimate, dynamic_uncertainty
    )
    for estimator in (
        rewards.reference_estimate,
        rewards.overwritten_estimate,
        dynamic,
    ):
        with pytest.raises(AssertionError, match=r"needs? references"):
            estimate(estimator, 0, 0, None, {})


def test_shaped_reward_worked_numbers():
    # 3 - 0.3 * 2 + 0.7 * 1.5 - 0.25
    shaped = rewards.shape_reward(
        Estimate(jnp.float32(3.0), jnp.float32(2.0)),
        jnp.float32(1.5),
        jnp.float32(0.25),
        COEFFICIENTS,
    )
    np.testing.assert_allclose(shaped, 3.2, rtol=1e-6)


@pytest.mark.parametrize("orders", [(), (1,), (2,), (1, 2)])
@pytest.mark.parametrize("method", ["mbpo", "dorl", "roler", "gt", "darlr_nearest"])
def test_reward_bounds_of_the_protocol(method, orders):
    """MIN_R and MAX_R come from the world model's tables, whatever replaces these."""
    config = tiny(method, reward__entropy_orders=orders)
    tables = assemble(config).tables.rewards
    world = EXPERIMENT.tables.rewards  # of a method that shows both tables as they are
    base = tiny_dataset(config.dataset).true_reward if method == "gt" else world.base
    dynamic = method.startswith("darlr")  # has no table: its shift is of the estimate
    variance = np.zeros(1) if dynamic else np.asarray(world.uncertainty)
    walks = logged_walks(tiny_dataset(config.dataset))
    entropies = [reference.entropy_dictionary(walks, order) for order in orders]
    expected = reference.reward_bounds(
        np.asarray(base), variance, entropies, float(COEFFICIENTS.lambda_u), 0.7
    )
    found = jax.jit(rewards.reward_bounds)(tables, COEFFICIENTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.low < found.high
