"""The log as a replay buffer: sessions, n-step returns, and minibatches of both.

Built once, on the host, without a loop over rows; 20 bytes a row. What a state tracker
sees of a row is looked up when the row is drawn.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from darlr_jax.config import EnvironmentConfig, ExperimentConfig
from darlr_jax.data import logs
from darlr_jax.data.dataset import DataError, Dataset, InteractionLog
from darlr_jax.simulation import environment
from darlr_jax.types import (
    Array,
    EnvParams,
    EnvState,
    Key,
    Observation,
    RewardScale,
    Table,
)

_ORDER_SEED = 20250509  # of the order of feedback that has none
_USERS_AT_ONCE = 1024  # whose sessions are replayed together
_ROWS_AT_ONCE = 256  # lengths are rounded up to these: few programs
_ENDLESS = 2**31 - 1


class Replay(NamedTuple):
    """Logged rows `[N]`, user by user, each user's sessions one after another."""

    items: Table  # [N] int32 actions
    rewards: Table  # [N] what they paid, in the unit of the true matrix
    turns: Table  # [N] int32, rows of the same session before this one
    returns: Table  # [N] discounted sum over n rows, or to the end of the session
    discounts: Table  # [N] gamma^n, 0 where the session ends within n rows
    scale: RewardScale  # of rewards in the state, while learning and while acting


class Sample(NamedTuple):
    """A minibatch of rows."""

    observation: Observation  # [M, W] before the row
    following: Observation  # [M, W] n rows later; anything where the discount is 0
    item: Array  # [M]
    returns: Array  # [M]
    discount: Array  # [M]


def build_replay(dataset: Dataset, env: EnvParams, config: ExperimentConfig) -> Replay:
    """The rows of every logged user whose item is an action, as NumPy arrays.

    A session ends where the exit rule fires on the logged items, and with the user's
    last row; the next row then starts a new one, with an empty history.

    Raises:
      DataError: no such row, or all of them paid the same.
    """
    log, lengths = _sorted_actions(dataset, config.offline.order)
    low, high = _bounds(log, dataset.name)
    turns = session_turns(log.items, lengths, env, config.environment)
    learned = log.labels if config.offline.feedback == "label" else log.rewards
    returns, discounts = n_step_returns(
        learned, turns, config.offline.n_step, config.recommender.discount
    )
    return Replay(
        items=log.items,
        rewards=log.rewards,
        turns=turns,
        returns=returns,
        discounts=discounts,
        scale=RewardScale(low, high),
    )


def _sorted_actions(dataset: Dataset, order: str) -> tuple[InteractionLog, np.ndarray]:
    """The rows on actions, by user and time, and how many each of the users has."""
    log = dataset.log
    actions = logs.positions(dataset.environment_items, dataset.num_logged_items)
    rows = np.flatnonzero(actions[log.items] >= 0)
    rank = _rank(log, rows, order)
    rows = rows[np.lexsort((rank, log.users[rows]))]
    items = actions[log.items[rows]].astype(np.int32)
    kept = dataclasses.replace(logs.select(log, rows), items=items)
    lengths = np.bincount(kept.users, minlength=dataset.num_logged_users)
    return kept, lengths[lengths > 0]


def _rank(log: InteractionLog, rows: np.ndarray, order: str) -> np.ndarray:
    """What a user's rows are sorted by; ties, and "logged", keep the source's order."""
    if log.times is not None:
        return log.times[rows]
    if order == "random":
        return np.random.default_rng(_ORDER_SEED).permutation(len(rows))
    return np.arange(len(rows))


def _bounds(log: InteractionLog, name: str) -> tuple[Table, Table]:
    """The least and the largest logged reward."""
    if not len(log):
        raise DataError(f"{name}: no logged row is of an action: nothing to learn from")
    low, high = np.min(log.rewards), np.max(log.rewards)
    if low == high:
        raise DataError(f"{name}: every logged row paid {low:g}: nothing to learn from")
    return low, high


# --- sessions -------------------------------------------------------------------------


def session_turns(
    items: np.ndarray,
    lengths: np.ndarray,
    env: EnvParams,
    config: EnvironmentConfig,
) -> np.ndarray:
    """How many rows of its session lie before each row.

    The exit rule is the simulation's own, asked of the logged items; `max_turn` is a
    limit of the simulation, which no logged user knew, and ends nothing here.

    Args:
      items: [N] int32 actions, user by user.
      lengths: [X] rows of each user, above 0.
      env: tags and distances of the items.
      config: the exit rule.

    Returns:
      [N] int32.
    """
    starts = np.cumsum(lengths) - lengths
    if not environment.can_end_early(config):
        position = np.arange(len(items)) - np.repeat(starts, lengths)
        return position.astype(np.int32)
    turns = np.empty(len(items), np.int32)
    longest_first = np.argsort(-lengths, kind="stable")
    for block in range(0, len(lengths), _USERS_AT_ONCE):
        users = longest_first[block : block + _USERS_AT_ONCE]
        height = -(-lengths[users[0]] // _ROWS_AT_ONCE) * _ROWS_AT_ONCE
        row = np.arange(height)[:, None]
        inside = row < lengths[users]
        rows = np.where(inside, starts[users] + row, 0)
        replayed = np.asarray(_replay_exits(items[rows], env, config=config))
        turns[rows[inside]] = replayed[inside]
    return turns


@functools.partial(jax.jit, static_argnames="config")
def _replay_exits(walks: Array, env: EnvParams, *, config: EnvironmentConfig) -> Array:
    """Turns `[L, X]` of the items `[L, X]` that X users took one after another."""
    endless = dataclasses.replace(config, max_turn=_ENDLESS)
    user, unpaid = jnp.zeros((), jnp.int32), jnp.zeros(())
    # One slot for the used items: nobody asks for them here.
    fresh = environment.reset(user, 1, config.exit_window)

    def step(state: EnvState, item: Array) -> tuple[EnvState, Array]:
        after = environment.step(state, item, unpaid, env, config=endless)
        ended = after.discount == 0
        renewed = jax.tree.map(
            lambda new, old: jnp.where(ended, new, old), fresh, after
        )
        return renewed, state.turn

    def replay(walk: Array) -> Array:
        return lax.scan(step, fresh, walk)[1]

    return jax.vmap(replay, 1, 1)(walks)


def n_step_returns(
    rewards: np.ndarray, turns: np.ndarray, n: int, discount: float
) -> tuple[np.ndarray, np.ndarray]:
    """G = sum over k < n of gamma^k r_{t+k} within a session, and what follows counts.

    Args:
      rewards: [N] float32.
      turns: [N] place of each row in its session.
      n: rows looked ahead.
      discount: gamma.

    Returns:
      G [N] float32, and [N] float32 gamma^n where the session goes on for n rows, else
      0: y = G + gamma^n V(n rows later).
    """
    returns = np.zeros(len(rewards), np.float32)
    for k in range(n):
        same = _same_session(turns, k)
        returns[: len(same)] += np.float32(discount**k) * same * rewards[k:]
    same = _same_session(turns, n)
    discounts = np.zeros(len(rewards), np.float32)
    discounts[: len(same)] = np.float32(discount**n) * same
    return returns, discounts


def _same_session(turns: np.ndarray, k: int) -> np.ndarray:
    """[N - k] whether the row k later is of the same session: turns count up in it."""
    size = max(len(turns) - k, 0)
    return turns[len(turns) - size :] == turns[:size] + k


# --- minibatches ----------------------------------------------------------------------


def draw(
    key: Key, replay: Replay, *, size: int, window: int, n: int, num_items: int
) -> Sample:
    """`size` rows, uniform and with replacement. The key is consumed."""
    count = replay.items.shape[0]
    rows = jax.random.randint(key, (size,), 0, count)
    look = functools.partial(observe, replay, window=window, num_items=num_items)
    return Sample(
        observation=look(rows),
        following=look(jnp.minimum(rows + n, count - 1)),
        item=replay.items[rows],
        returns=replay.returns[rows],
        discount=replay.discounts[rows],
    )


def observe(replay: Replay, rows: Array, *, window: int, num_items: int) -> Observation:
    """What the recommender saw before the rows `[M]`: `[M, W]`, newest first.

    As `environment.observe` shows a session that went the same way.
    """
    begin = environment.observe(
        environment.reset(jnp.zeros((), jnp.int32), num_items, window), window
    )
    turn = replay.turns[rows][:, None]
    age = jnp.arange(window)[None, :]
    past = jnp.maximum(rows[:, None] - 1 - age, 0)
    slot = jnp.clip(age - turn, 0, window - 1)  # of an unrolled session's beginning
    in_session = age < turn
    return Observation(
        jnp.where(in_session, replay.items[past], begin.items[slot]),
        jnp.where(in_session, replay.rewards[past], begin.rewards[slot]),
    )
