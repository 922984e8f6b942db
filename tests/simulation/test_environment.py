"""environment.py: the contract of a session, and the exit rule as published."""

from __future__ import annotations

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darlr_jax.config import EnvironmentConfig
from darlr_jax.simulation import environment
from darlr_jax.types import EMPTY, EnvParams
from tests import reference_simulation as reference

ITEMS, TAGS, TURNS = 7, 4, 14
RULES = ("tags", "distance")


def random_world(seed, threshold=0.0):
    """Items with 0 to 4 tags and whole-numbered columns, some of them equal."""
    rng = np.random.default_rng(seed)
    tags = rng.random((ITEMS, TAGS)) < 0.35
    columns = rng.integers(0, 2, (ITEMS, 3))
    distance = np.linalg.norm(columns[:, None] - columns[None], axis=2)
    params = EnvParams(
        item_tags=jnp.asarray(tags, jnp.float32),
        item_distance=jnp.asarray(distance, jnp.float32),
        exit_threshold=jnp.float32(threshold),
        num_users=jnp.int32(5),
    )
    return params, [set(np.flatnonzero(row).tolist()) for row in tags], columns


def leaves(rule, item, past, tags, columns, config):
    """The exit rule, slowly."""
    recent = reference.looked_at(past, config.exit_window, config.published_window)
    if rule == "tags":
        return reference.leaves_by_tags(item, recent, tags, config.exit_threshold)
    return reference.leaves_by_distance(item, recent, columns, config.exit_threshold)


@functools.cache
def compiled_exits(config):
    """`(items [T], params) -> [T]`: would the user leave, in a session without end."""
    endless = EnvironmentConfig(max_turn=100_000, exit_rule="none")

    @jax.jit
    def exits(items, params):
        def turn(state, item):
            left = environment.has_exited(state, item, params, config=config)
            zero = jnp.zeros(())
            return environment.step(state, item, zero, params, config=endless), left

        start = environment.reset(jnp.int32(0), ITEMS, config.exit_window)
        return jax.lax.scan(turn, start, items)[1]

    return exits


# --- exit rule ------------------------------------------------------------------------


@pytest.mark.parametrize("published", [True, False])
@pytest.mark.parametrize("window", [1, 2, 3, 4, 5, 10])
@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=25)
@given(
    items=st.lists(st.integers(0, ITEMS - 1), min_size=TURNS, max_size=TURNS),
    seed=st.integers(0, 1000),
    threshold=st.sampled_from([0, 1, 2]),
)
def test_exit_rule_against_list_slices(rule, window, published, items, seed, threshold):
    params, tags, columns = random_world(seed, threshold)
    options = {"exit_rule": rule, "exit_window": window, "published_window": published}
    found = compiled_exits(EnvironmentConfig(**options))(jnp.asarray(items), params)
    config = EnvironmentConfig(**options, exit_threshold=threshold)
    expected = [
        leaves(rule, item, items[:turn], tags, columns, config)
        for turn, item in enumerate(items)
    ]
    assert found.tolist() == expected
    assert not expected[0]  # no user leaves at her first turn


@pytest.mark.parametrize(
    ("window", "published", "lengths"),
    [
        (1, True, [0, 1, 1, 1, 1]),
        (4, True, [0, 1, 2, 1, 4, 4, 4]),
        (10, True, [0, 1, 2, 3, 4, 5, 4, 3, 2, 1, 10, 10]),
        (4, False, [0, 1, 2, 3, 4, 4, 4]),
        (10, False, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]),
    ],
)
def test_effective_window_lengths_of_the_protocol(window, published, lengths):
    # Item i has tag i alone, so that repeating it is noticed while it is looked at.
    num_items = len(lengths)
    config = EnvironmentConfig(
        exit_rule="tags", exit_window=window, published_window=published
    )
    params = EnvParams(jnp.eye(num_items), jnp.zeros((0, 0)), jnp.zeros(()), 1)
    exits = functools.partial(environment.has_exited, config=config)
    notices = jax.jit(jax.vmap(exits, (None, 0, None)))
    endless = EnvironmentConfig(exit_rule="none")
    step = jax.jit(functools.partial(environment.step, config=endless))
    state = environment.reset(jnp.int32(0), num_items, window)
    found = []
    for turn in range(num_items):
        noticed = np.flatnonzero(notices(state, jnp.arange(num_items), params))
        found.append(len(noticed))
        assert noticed.tolist() == list(range(turn - len(noticed), turn))  # the newest
        state = step(state, jnp.int32(turn), jnp.zeros(()), params)
    assert found == lengths


def test_distance_is_compared_strictly_and_threshold_zero_never_fires():
    params, _, _ = random_world(0)
    # Item 1 lies at distance 2 of item 0, and every item at distance 0 of itself.
    distance = params.item_distance.at[1, 0].set(2.0)
    state = environment.reset(jnp.int32(0), ITEMS, 1)
    config = EnvironmentConfig(exit_rule="distance", exit_window=1)
    state = environment.step(state, jnp.int32(0), jnp.zeros(()), params, config=config)

    def exits(item, threshold):
        at = params._replace(item_distance=distance, exit_threshold=threshold)
        return bool(environment.has_exited(state, jnp.int32(item), at, config=config))

    assert not exits(1, 2.0)
    assert exits(1, 2.001)
    assert not exits(0, 0.0)
    assert exits(0, 1e-6)


@pytest.mark.parametrize(
    ("rule", "threshold", "expected"),
    [
        ("none", 0.0, False),
        ("distance", 0.0, False),
        ("distance", 0.5, True),
        ("tags", 0.0, True),
        ("tags", 3.0, True),
    ],
)
def test_can_end_early(rule, threshold, expected):
    config = EnvironmentConfig(exit_rule=rule, exit_threshold=threshold)
    assert environment.can_end_early(config) is expected


# --- sessions -------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [*RULES, "none"])
@pytest.mark.parametrize("history", [3, 5])
def test_contract_of_a_session(rule, history):
    """Random items until the end and beyond it, every field against Python lists."""
    config = EnvironmentConfig(
        max_turn=6, exit_rule=rule, exit_window=3, exit_threshold=1.0
    )
    step = jax.jit(functools.partial(environment.step, config=config))
    lengths = set()
    for seed in range(12):
        params, tags, columns = random_world(seed, config.exit_threshold)
        rng = np.random.default_rng(seed)
        state = environment.reset(jnp.int32(seed % 5), ITEMS, history)
        shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        past, paid, alive = [], [], True
        for _ in range(config.max_turn + 2):
            assert state.user == seed % 5
            assert state.turn == len(past)
            assert state.discount == float(alive)
            np.testing.assert_array_equal(
                state.items, reference.newest_first(past, ITEMS, EMPTY, history)
            )
            np.testing.assert_array_equal(
                state.rewards,
                reference.newest_first(paid, reference.START_REWARD, 0.0, history),
            )
            assert set(np.flatnonzero(state.used)) == set(past)
            item, reward = int(rng.integers(ITEMS)), np.float32(rng.normal())
            if alive:
                ends = rule != "none" and leaves(
                    rule, item, past, tags, columns, config
                )
                past, paid = [*past, item], [*paid, reward]
                alive = not ends and len(past) < config.max_turn
            state = step(state, jnp.int32(item), reward, params)
            assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == shapes
        lengths.add(len(past))
    assert (lengths == {config.max_turn}) == (rule == "none")  # both ends are seen


def test_observation_counts_the_start_token_as_one_of_its_window():
    params, _, _ = random_world(0)
    config = EnvironmentConfig(exit_rule="none", max_turn=9)
    state = environment.reset(jnp.int32(0), ITEMS, 4)
    seen = []
    for item in range(3):
        seen.append(environment.observe(state, 2))
        reward = jnp.float32(10 + item)
        state = environment.step(state, jnp.int32(item), reward, params, config=config)
    assert [o.items.tolist() for o in seen] == [[ITEMS, EMPTY], [0, ITEMS], [1, 0]]
    assert [o.rewards.tolist() for o in seen] == [[1, 0], [10, 1], [11, 10]]


def test_batched_sessions_do_not_depend_on_each_other():
    params, _, _ = random_world(3)
    config = EnvironmentConfig(max_turn=4, exit_rule="tags", exit_window=2)
    pairs = list(itertools.product(range(ITEMS), range(ITEMS)))
    bound = functools.partial(environment.step, params=params, config=config)
    step, batched_step = jax.jit(bound), jax.jit(jax.vmap(bound))
    reset = functools.partial(environment.reset, num_items=ITEMS, history=2)
    state = jax.vmap(reset)(jnp.arange(len(pairs)))
    for items in zip(*pairs, strict=True):
        state = batched_step(state, jnp.asarray(items), jnp.zeros(len(pairs)))
    for row, pair in enumerate(pairs):
        alone = reset(jnp.int32(row))
        for item in pair:
            alone = step(alone, jnp.int32(item), jnp.zeros(()))
        chex.assert_trees_all_equal(
            jax.tree.map(lambda leaf, row=row: leaf[row], state), alone
        )


def test_users_are_drawn_uniformly():
    params, _, _ = random_world(0)
    keys = jax.random.split(jax.random.key(0), 5000)
    users = jax.jit(jax.vmap(environment.draw_user, (0, None)))(keys, params)
    counts = np.bincount(users)
    assert len(counts) == params.num_users
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000 * 0.8))  # 5 deviations


def test_second_step_is_not_traced_again():
    params, _, _ = random_world(0)
    config = EnvironmentConfig(exit_rule="tags")

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(state, item, reward, params):
        return environment.step(state, item, reward, params, config=config)

    state = environment.reset(jnp.int32(0), ITEMS, 3)
    for item in range(2):
        state = step(state, jnp.int32(item), jnp.float32(item), params)
    assert state.turn == 2
