"""A user session as pure functions; the same code trains and evaluates.

State: `types.EnvState`. Action: an item in [0, I). The reward of a step is passed in:
in training the shaped one, in evaluation a cell of the true matrix. A session ends when
the exit rule fires or after `max_turn` recommendations; its last step is still paid. A
finished session steps to itself with discount 0, so that a fixed-length scan over turns
serves a whole batch. All functions are _unbatched_: lift them with `vmap`.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from darlr_jax.config import EnvironmentConfig
from darlr_jax.types import EMPTY, Array, EnvParams, EnvState, Key, Observation

_START_REWARD = 1.0  # what the published start token carries


def draw_user(key: Key, params: EnvParams) -> Array:
    """A uniformly random user `[]`. The key is consumed."""
    return jax.random.randint(key, (), 0, params.num_users)


def reset(user: Array, num_items: int, history: int) -> EnvState:
    """A session of `user` before its first recommendation.

    Args:
      user: `[]` int32.
      num_items: I; the start token has this id.
      history: H, the items kept: at least the tracker's and the exit rule's window.
    """
    items = jnp.full((history,), EMPTY, jnp.int32).at[0].set(num_items)
    return EnvState(
        user=user.astype(jnp.int32),
        turn=jnp.zeros((), jnp.int32),
        discount=jnp.ones(()),
        items=items,
        rewards=jnp.zeros((history,)).at[0].set(_START_REWARD),
        used=jnp.zeros((num_items,), bool),
    )


def observe(state: EnvState, window: int) -> Observation:
    """The last `window` items and rewards; the start token counts as one of them."""
    return Observation(state.items[:window], state.rewards[:window])


def step(
    state: EnvState,
    item: Array,
    reward: Array,
    params: EnvParams,
    *,
    config: EnvironmentConfig,
) -> EnvState:
    """One recommendation. The new state's discount is 0 if the session ends with it.

    Args:
      state: the session before the recommendation.
      item: `[]` int32, the recommended item.
      reward: `[]` float32, what it paid.
      params: the world.
      config: episode length and exit rule.
    """
    chex.assert_rank([item, reward], 0)
    ends = has_exited(state, item, params, config=config)
    ends |= state.turn + 1 >= config.max_turn
    stepped = EnvState(
        user=state.user,
        turn=state.turn + 1,
        discount=jnp.where(ends, 0.0, 1.0),
        items=jnp.concatenate([item[None], state.items[:-1]]),
        rewards=jnp.concatenate([reward[None], state.rewards[:-1]]),
        used=state.used.at[item].set(True),
    )
    alive = state.discount > 0
    return jax.tree.map(lambda new, old: jnp.where(alive, new, old), stepped, state)


def has_exited(
    state: EnvState, item: Array, params: EnvParams, *, config: EnvironmentConfig
) -> Array:
    """Whether recommending `item` now makes the user leave (protocol 3.4).

    By tags: some tag of the item occurs more than `exit_threshold` times among the
    items of the exit window. By distance: an item of the window is nearer to it than
    the threshold, between columns of the true matrix. Never at the first turn.
    """
    if config.exit_rule == "none":
        return jnp.zeros((), bool)
    recent = state.items[: config.exit_window]
    looked_at = _exit_window(state.turn, config)
    recent = jnp.where(looked_at, recent, 0)
    if config.exit_rule == "tags":
        tags = params.item_tags[recent] * looked_at[:, None]
        repeats = jnp.sum(tags, axis=0) * params.item_tags[item]
        return jnp.any(repeats > params.exit_threshold)
    near = params.item_distance[item, recent] < params.exit_threshold
    return jnp.any(near & looked_at)


def _exit_window(turn: Array, config: EnvironmentConfig) -> Array:
    """Mask `[N]`, newest first, of the past items that the exit rule looks at.

    The published code takes the list slice [t - N : t] of the past items. For t < N its
    negative start counts from the end of the list, so that the window begins at
    max(0, 2 t - N) and shrinks again before it is full.
    """
    window = config.exit_window
    position = turn - 1 - jnp.arange(window)  # of each slot in the list of past items
    start = turn - window
    if config.published_window:
        start = jnp.where(start < 0, turn + start, start)
    return position >= jnp.maximum(start, 0)


def can_end_early(config: EnvironmentConfig) -> bool:
    """Whether a session can be shorter than `max_turn` (decided without data)."""
    inert = config.exit_rule == "distance" and config.exit_threshold <= 0
    return config.exit_rule != "none" and not inert
