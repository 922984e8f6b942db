"""metrics.py: every published metric against loops over episodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.evaluation.metrics import episode_metrics
from darlr_jax.types import Trajectories
from tests import reference_simulation as reference

TURNS, NUM_ITEMS = 4, 6
metrics = jax.jit(episode_metrics)

steps = st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(-2, 5))
episodes = st.lists(st.lists(steps, min_size=1, max_size=TURNS), min_size=5, max_size=5)


def trajectories_of(episodes):
    """Arrays `[T, B]`; behind the end of an episode stands item 0, with weight 0."""
    items = np.zeros((TURNS, len(episodes)), np.int32)
    rewards, weights = np.zeros(items.shape, np.float32), np.zeros(items.shape)
    for column, episode in enumerate(episodes):
        for turn, (item, paid) in enumerate(episode):
            items[turn, column], rewards[turn, column] = item, paid
            weights[turn, column] = 1
    return Trajectories(*map(jnp.asarray, (items, rewards, np.float32(weights))))


@pytest.mark.parametrize("groups", [0, 1, 3])
@settings(max_examples=40)
@given(episodes=episodes, seed=st.integers(0, 99))
def test_metrics_against_loops(groups, episodes, seed):
    dominated = np.random.default_rng(seed).random((groups, NUM_ITEMS)) < 0.4
    found = metrics(trajectories_of(episodes), jnp.asarray(dominated))._asdict()
    expected = reference.episode_metrics(episodes, dominated)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6)


def test_worked_example():
    # Item 5 is shown twice, item 0 only stands behind the end of the second episode.
    episodes = [[(5, 1.0), (2, 2.0), (5, 3.0)], [(1, 4.0)]]
    dominated = np.zeros((2, NUM_ITEMS), bool)
    dominated[0, 5] = True
    dominated[1, [0, 1]] = True
    found = metrics(trajectories_of(episodes), jnp.asarray(dominated))
    assert found.R_tra == 5.0
    assert found.len_tra == 2.0
    assert found.R_each == 2.5
    assert found.CV == 0.5
    assert found.CV_turn == 0.75
    assert found.MCD == 0.375  # the mean of 2 / 4 and of 1 / 4


def test_without_groups_there_is_no_matthew_effect_to_measure():
    found = metrics(trajectories_of([[(0, 1.0)]]), jnp.zeros((0, NUM_ITEMS), bool))
    assert np.isnan(found.MCD)
    assert np.isfinite(found[:-1]).all()
