"""visits.py: agents play as in training, and other items are estimated as these are."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from darlr_jax.training.rollout import roll_out
from darlr_jax.training.visits import sample_visits
from tests.simulation.worlds import assemble, first_state, tiny

USERS = np.array([0, 3, 4, 11], np.int32)


def visit(config, seed=0):
    experiment = assemble(config)
    play = jax.jit(functools.partial(sample_visits, program=experiment.program))
    return jax.tree.map(
        np.asarray,
        play(
            first_state(config),
            USERS,
            jax.random.key(seed),
            experiment.tables,
            experiment.coefficients,
        ),
    )


def test_every_user_plays_one_episode():
    visits = visit(tiny("darlr"))
    assert visits.user.shape == (5, 4)
    np.testing.assert_array_equal(visits.user, np.tile(USERS, (5, 1)))
    assert visits.weight.min() == 1.0
    assert set(np.unique(visits.other)) <= set(range(10))
    assert len(np.unique(visits.other)) > 4


def test_they_play_as_in_training():
    config = tiny("darlr")
    experiment = assemble(config)
    key = jax.random.split(jax.random.key(0), 3)[0]
    transitions, _ = jax.jit(functools.partial(roll_out, program=experiment.program))(
        first_state(config), USERS, key, experiment.tables, experiment.coefficients
    )
    visits = visit(config)
    np.testing.assert_array_equal(visits.item, transitions.item)
    np.testing.assert_array_equal(visits.estimate, transitions.metrics["estimate"])


def test_without_references_both_are_cells_of_one_table():
    config = tiny("mbpo")
    visits, table = visit(config), np.asarray(assemble(config).tables.rewards.static)
    np.testing.assert_array_equal(visits.estimate, table[visits.user, visits.item])
    np.testing.assert_array_equal(
        visits.other_estimate, table[visits.user, visits.other]
    )


def test_nearest_references_answer_for_any_item():
    config = tiny("darlr_nearest")
    visits, tables = visit(config), assemble(config).tables
    neighbours = np.asarray(tables.users.neighbours)[visits.user]  # [T, B, K]
    base = np.asarray(tables.rewards.base)
    for items, estimates in (
        (visits.item, visits.estimate),
        (visits.other, visits.other_estimate),
    ):
        expected = base[neighbours, items[..., None]].mean(axis=-1)
        np.testing.assert_allclose(estimates, expected, rtol=1e-5)


@pytest.mark.parametrize("item_in_state", [False, True])
def test_learned_references_answer_for_any_item(item_in_state):
    """Each answer is the mean of k_sel other users' cells of that item."""
    config = tiny("darlr", selector__item_in_state=item_in_state)
    visits = visit(config)
    base = np.asarray(assemble(config).tables.rewards.base)
    for user, item, estimate in zip(
        visits.user.ravel(),
        visits.other.ravel(),
        visits.other_estimate.ravel(),
        strict=True,
    ):
        column = np.delete(base[:, item], user)
        low, high = (
            np.sort(column)[part].mean() for part in (slice(3), slice(-3, None))
        )
        assert low - 1e-5 <= estimate <= high + 1e-5
    own = base[visits.user, visits.other]
    assert np.abs(visits.other_estimate - own).max() > 0.1


def test_ended_episodes_have_no_weight():
    config = tiny("mbpo", environment__exit_rule="tags", environment__exit_window=1)
    visits = visit(config)
    assert 0 < visits.weight.mean() < 1
    assert jnp.all(jnp.diff(visits.weight, axis=0) <= 0)
