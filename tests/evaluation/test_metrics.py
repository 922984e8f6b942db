"""metrics.py: every metric against loops over episodes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.evaluation.metrics import episode_metrics, visited_error
from darlr_jax.types import UNVISITED, EnvParams, ItemFacts, Trajectories
from tests import reference_simulation as reference

TURNS, NUM_ITEMS, EPISODES = 4, 6, 5
metrics = jax.jit(episode_metrics)

steps = st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(-2, 5))
episodes = st.lists(
    st.lists(steps, min_size=1, max_size=TURNS), min_size=EPISODES, max_size=EPISODES
)


def trajectories_of(episodes):
    """Arrays `[T, B]`; behind the end of an episode stands item 0, with weight 0."""
    items = np.zeros((TURNS, len(episodes)), np.int32)
    rewards, weights = np.zeros(items.shape, np.float32), np.zeros(items.shape)
    for column, episode in enumerate(episodes):
        for turn, (item, paid) in enumerate(episode):
            items[turn, column], rewards[turn, column] = item, paid
            weights[turn, column] = 1
    return Trajectories(*map(jnp.asarray, (items, rewards, np.float32(weights))))


def world(tags=None, distance=None):
    """Environment parameters of which the metrics read tags and distances."""
    tags = np.zeros((NUM_ITEMS, 0)) if tags is None else tags
    distance = np.zeros((0, 0)) if distance is None else distance
    return EnvParams(np.float32(tags), np.float32(distance), 0.0, 1)


def facts(dominated, popularity=None):
    ones = np.ones(NUM_ITEMS, np.float32)
    return ItemFacts(
        np.float32(dominated), ones if popularity is None else np.float32(popularity)
    )


def jaccard(tags):
    def similarity(one, two):
        first, second = set(np.flatnonzero(tags[one])), set(np.flatnonzero(tags[two]))
        return len(first & second) / max(len(first | second), 1)

    return similarity


@pytest.mark.parametrize("by_distance", [False, True])
@pytest.mark.parametrize("groups", [0, 1, 3])
@settings(max_examples=25)
@given(episodes=episodes, seed=st.integers(0, 99))
def test_metrics_against_loops(groups, by_distance, episodes, seed):
    rng = np.random.default_rng(seed)
    dominated = rng.random((groups, NUM_ITEMS)) < 0.4
    popularity = rng.uniform(0.01, 1, NUM_ITEMS)
    activity = rng.integers(0, 3, EPISODES).astype(np.int32)
    tags, distance = rng.random((NUM_ITEMS, 3)) < 0.5, rng.random((NUM_ITEMS,) * 2)
    env = world(distance=distance) if by_distance else world(tags)

    found = metrics(
        trajectories_of(episodes), activity, facts(dominated, popularity), env
    )._asdict()

    by_tags = jaccard(tags)
    expected = reference.episode_metrics(
        episodes,
        dominated,
        popularity,
        lambda a, b: 1 / (1 + distance[a, b]) if by_distance else by_tags(a, b),
        activity,
    )
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(
            found[name], value, rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_worked_example():
    # Item 5 is shown twice, item 0 only stands behind the end of the second episode.
    episodes = [[(5, 1.0), (2, 2.0), (5, 3.0)], [(1, 4.0)]]
    dominated = np.zeros((2, NUM_ITEMS), bool)
    dominated[0, 5] = True
    dominated[1, [0, 1]] = True
    tags = np.eye(NUM_ITEMS)
    tags[2, 5] = 1  # item 2 shares one of its two tags with item 5
    popularity = np.exp(-np.arange(NUM_ITEMS))
    heavy_and_light = np.array([2, 0], np.int32)

    found = metrics(
        trajectories_of(episodes),
        heavy_and_light,
        facts(dominated, popularity),
        world(tags),
    )

    assert found.R_tra == 5.0
    assert found.len_tra == 2.0
    assert found.R_each == 2.5
    assert found.CV == 0.5
    assert found.CV_turn == 0.75
    assert pytest.approx(0.375) == found.MCD  # the mean of 2 / 4 and of 1 / 4
    # The first episode: 1/2, 0 (an item with itself) and 1/2; the second has no pair.
    assert found.Diversity == pytest.approx((1 / 3 + 1) / 2)
    assert found.Novelty == pytest.approx((5 + 2 + 5 + 1) / 4)
    # Sorted counts 0 0 0 1 1 2: 2 * (4 + 5 + 12) / (6 * 4) - 7 / 6.
    assert found.Gini == pytest.approx(7 / 12)
    assert found.CV_heavy == pytest.approx(2 / 6)
    assert found.CV_medium == 0
    assert found.CV_light == pytest.approx(1 / 6)


def test_without_categories_and_tags_two_metrics_are_undefined():
    nothing = np.zeros((0, NUM_ITEMS))
    group = np.zeros(1, np.int32)

    found = metrics(trajectories_of([[(0, 1.0)]]), group, facts(nothing), world())

    undefined = [name for name, value in found._asdict().items() if np.isnan(value)]
    assert undefined == ["MCD", "Diversity"]


@pytest.mark.parametrize(("shown", "expected"), [([0, 1, 2, 3, 4, 5], 0), ([3], 5 / 6)])
def test_gini_of_equal_shares_and_of_one_item(shown, expected):
    episodes = [[(item, 1.0)] for item in shown]
    group = np.zeros(len(shown), np.int32)

    found = metrics(
        trajectories_of(episodes), group, facts(np.zeros((0, NUM_ITEMS))), world()
    )

    assert found.Gini == pytest.approx(expected, abs=1e-6)


def test_visited_error_is_that_of_visited_cells():
    estimates = jnp.array([[1.0, UNVISITED], [4.0, UNVISITED]])
    truth = jnp.array([[2.0, 5.0], [1.0, 5.0]])
    assert visited_error(estimates, truth) == 2.0
    assert visited_error(jnp.full((2, 2), UNVISITED), truth) == 0.0
