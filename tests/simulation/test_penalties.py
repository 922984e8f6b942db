"""penalties.py: the dynamic uncertainty and the entropy bonus."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.data import statistics
from darlr_jax.data.dataset import InteractionLog
from darlr_jax.simulation.penalties import dynamic_uncertainty, entropy_bonus
from tests import reference_simulation as reference

NUM_ITEMS = 5
ORDERS = [(), (1,), (2,), (1, 2), (2, 1)]


def uncertainty(value, previous, similarity, diversity, floor=1e-3):
    answers = [value] * len(similarity)
    arguments = (value, previous, answers, similarity, diversity, floor)
    return jax.jit(dynamic_uncertainty)(*map(jnp.float32, arguments))


# --- dynamic uncertainty --------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "previous", "similarity", "diversity", "expected"),
    [
        (3.0, 2.0, [0.5], [0.0], 2.0),
        (2.0, 3.0, [0.5], [0.0], 2.0),
        (3.0, 2.0, [1.0, 0.5], [0.0, 0.5], 1.0),  # means 0.75 and 0.25
        (2.0, 2.0, [1.0], [0.0], 0.0),
        (3.0, 2.5, [-0.5, 0.5], [0.0, 0.0], 500.0),  # a sum of 0: the floor
        (3.0, 2.5, [-1.0], [0.0], 500.0),  # a negative sum: the floor
        (2.0, 2.0, [0.0], [0.0], 0.0),
    ],
)
def test_dynamic_uncertainty_worked_numbers(
    value, previous, similarity, diversity, expected
):
    found = uncertainty(value, previous, similarity, diversity)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


numbers = st.floats(-5, 5, width=32)
gains = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6)


@settings(max_examples=60)
@given(numbers, numbers, gains, st.data(), st.sampled_from([1e-3, 0.5]))
def test_dynamic_uncertainty_against_loops(value, previous, similarity, data, floor):
    bounds = {"min_size": len(similarity), "max_size": len(similarity)}
    diversity = data.draw(st.lists(st.floats(0, 2, width=32), **bounds))
    found = uncertainty(value, previous, similarity, diversity, floor)
    expected = reference.dynamic_uncertainty(
        value, previous, similarity, diversity, floor
    )
    # Near the floor the mean of the gains cancels: an error of 1e-7 in 1e-3.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("similarity", [[0.0, 0.0], [0.5, -0.5], [-1.0, -1.0]])
def test_no_nan_where_the_denominator_vanishes(similarity):
    with jax.debug_nans(True):
        for difference in (0.0, 1.0):
            value_and_grads = jax.value_and_grad(dynamic_uncertainty, (0, 3, 4))
            found, grads = value_and_grads(
                jnp.float32(2.0 + difference),
                jnp.float32(2.0),
                jnp.full(2, 2.0),
                jnp.asarray(similarity),
                jnp.zeros(2),
                jnp.float32(0.1),
            )
            np.testing.assert_allclose(found, difference / 0.1, rtol=1e-6)
            assert all(np.isfinite(leaf).all() for leaf in grads)


# --- entropy bonus --------------------------------------------------------------------


def tables_of(walks, orders):
    """The package's tables of a log; a walk is what one user saw, in order."""
    rows = [(user, item) for user, walk in enumerate(walks) for item in walk]
    users, items = np.array(rows, np.int32).T
    ones = np.ones(len(rows), np.float32)
    log = InteractionLog(users, items, ones, ones, None)
    actions = np.arange(NUM_ITEMS, dtype=np.int32)
    tables = statistics.entropy_tables(log, actions, NUM_ITEMS, orders)
    return jax.tree.map(jnp.asarray, tables)


@functools.cache
def compiled_bonus(orders):
    return jax.jit(functools.partial(entropy_bonus, orders=orders))


def bonus(item, past, tables, orders):
    last = past[-1] if past else NUM_ITEMS  # the start token
    return compiled_bonus(orders)(jnp.int32(item), jnp.int32(last), tables)


# H of three to one, of 2 : 1 : 1 and of two to one, each over the log of its outcomes.
QUARTER, HALF, THIRD = 0.811278, 0.946395, 0.918296
WALKS = [(0, 1, 2), (0, 1, 2), (1, 0, 2), (0, 1, 4), (3, 3, 3, 3, 4)]


@pytest.mark.parametrize(
    ("past", "item", "single", "pair"),
    [
        ([], 0, QUARTER, 1.0),  # at the first turn the missing pair counts 1
        ([1], 0, QUARTER, QUARTER),
        ([0], 1, HALF, QUARTER),  # the order of a pair does not matter
        ([3], 3, QUARTER, THIRD),  # an item repeated
        ([2], 0, QUARTER, 1.0),  # a pair that the log does not have
        ([0], 2, 1.0, 1.0),  # an item that the log never continues
    ],
)
@pytest.mark.parametrize("orders", ORDERS)
def test_entropy_bonus_worked_numbers(orders, past, item, single, pair):
    expected = single * (1 in orders) + pair * (2 in orders)
    found = bonus(item, past, tables_of(WALKS, orders), orders)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


items = st.integers(0, NUM_ITEMS - 1)


@pytest.mark.parametrize("orders", ORDERS)
@settings(max_examples=30)
@given(
    walks=st.lists(st.lists(items, min_size=1, max_size=8), min_size=1, max_size=6),
    session=st.lists(items, min_size=1, max_size=6),
)
def test_entropy_bonus_against_dictionaries(orders, walks, session):
    tables = tables_of(walks, orders)
    entropy = reference.entropy_dictionary(walks, 1)
    entropy |= reference.entropy_dictionary(walks, 2)
    for turn, item in enumerate(session):
        past = session[:turn]
        expected = reference.entropy_bonus(item, past, entropy, orders)
        found = bonus(item, past, tables, orders)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
