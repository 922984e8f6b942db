"""CIRS: what was seen lately makes the like of it pay less."""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.simulation.penalties import exposure_effect
from darlr_jax.simulation.tables import exposure_distance
from tests.simulation.worlds import (
    assemble,
    first_state,
    invented_world_model,
    roll_out,
    tiny,
    tiny_dataset,
)

NUM_ITEMS = 4
DISTANCE = np.array(
    [[0, 1, 2, 5], [1, 0, 3, 4], [2, 3, 0, 6], [5, 4, 6, 0]], np.float32
)
FREE = {"environment__exit_rule": "none"}


def effect(item, past, tau=2.0, slots=6):
    """Of an item after the items `past`, oldest first."""
    history = [*reversed(past), NUM_ITEMS] + [-1] * slots  # the start token, nothing
    return float(
        jax.jit(exposure_effect, static_argnums=4)(
            jnp.int32(item),
            jnp.array(history[:slots]),
            jnp.int32(len(past)),
            jnp.asarray(DISTANCE),
            tau,
        )
    )


def slow_effect(item, past, tau):
    turn = len(past)
    return sum(
        math.exp(-(turn - j) * DISTANCE[item, seen] / tau)
        for j, seen in enumerate(past)
    )


def test_exposure_worked_numbers():
    assert effect(0, []) == 0
    assert effect(0, [0]) == 1  # itself does not fade
    assert effect(0, [0, 3]) == pytest.approx(1 + math.exp(-5 / 2))
    # item 1 two turns ago, at distance 1; item 2 one turn ago, at distance 2
    assert effect(0, [1, 2]) == pytest.approx(2 * math.exp(-1))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 3), max_size=6),
    st.sampled_from([0.5, 2.0, 100.0]),
)
def test_exposure_matches_the_definition(item, past, tau):
    expected = slow_effect(item, past, tau)
    assert effect(item, past, tau) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_distances_by_tags_are_one_over_what_they_share():
    config = tiny("cirs", environment__exit_rule="tags")
    dataset = tiny_dataset(config.dataset)
    tags = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    dataset = dataclasses.replace(dataset, item_tags=tags)

    found = exposure_distance(dataset, invented_world_model(dataset), config)

    shared = np.array(
        [[1, 0.5, 0, 0], [0.5, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    )  # the last one has no tags
    np.testing.assert_allclose(found, 1 / (shared + 0.001), rtol=1e-5)


def test_distances_without_tags_never_see_the_truth():
    config = tiny("cirs", **FREE)
    dataset = tiny_dataset(config.dataset)
    world = invented_world_model(dataset)
    blind = dataclasses.replace(dataset, true_reward=np.full((12, 10), np.nan))

    found = exposure_distance(blind, world, config)

    columns = world.prediction.T
    expected = [[math.dist(one, two) for two in columns] for one in columns]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", ["mbpo", "darlr"])
def test_other_methods_carry_no_distances(method):
    assert assemble(tiny(method)).tables.exposure_distance.size == 0


def test_what_is_paid_in_training():
    """The reward of MBPO for the same items, over 1 + gamma e, turn by turn."""
    weight, tau = 0.5, 3.0
    config = tiny(
        "cirs", **FREE, reward__exposure_weight=weight, reward__exposure_tau=tau
    )
    tables = assemble(config).tables
    distance = np.asarray(tables.exposure_distance)
    transitions, _ = roll_out(config, first_state(config))
    static = np.asarray(tables.rewards.static)
    shift = float(tables.rewards.estimate_low)  # no penalty, no bonus
    turns, environments = transitions.item.shape
    exposed = 0
    for b in range(environments):
        items = transitions.item[:, b]
        for turn in range(turns):
            seen = sum(
                math.exp(-(turn - j) * distance[items[turn], items[j]] / tau)
                for j in range(turn)
            )
            plain = static[transitions.user[turn, b], items[turn]] - shift
            expected = plain / (1 + weight * seen)
            assert transitions.reward[turn, b] == pytest.approx(expected, rel=1e-4)
            exposed += seen > 0.1
    assert exposed > environments  # there was something to see
