"""Evaluation episodes in the modes FB, NX_0 and NX_10 (protocol 6).

Whoever is evaluated acts through one function, `types.Policy.act`. Two estimators stand
side by side: the published one (some users, drawn anew each epoch) and all users with
common random numbers, whose differences between epochs and methods are not blurred by
the draw of users.

A policy that learns from what it recommends (`Policy.update`) meets the drawn users one
after another, as published, and keeps what it learned of them. Of all users each meets
the policy as the drawn ones left it, which then forgets her.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from darlr_jax.config import ConfigError, EnvironmentConfig, ExperimentConfig
from darlr_jax.data import statistics
from darlr_jax.data.dataset import Dataset
from darlr_jax.evaluation.metrics import ACTIVITY_GROUPS, episode_metrics
from darlr_jax.simulation import environment
from darlr_jax.types import (
    Array,
    EnvParams,
    EnvState,
    EvaluationTables,
    ItemFacts,
    Key,
    Params,
    Policy,
    RewardScale,
    Trajectories,
)

_COMMON_SEED = 20250509  # of the random numbers that all methods share
_USERS_AT_ONCE = 4096  # bounds the memory of evaluating all users


class Mode(NamedTuple):
    """How an evaluation episode differs from a training one."""

    name: str
    masks_used: bool
    exits: bool
    max_turn: int | None  # None: that of the environment


MODES = (
    Mode("FB", masks_used=False, exits=True, max_turn=None),
    Mode("NX_0", masks_used=True, exits=True, max_turn=None),
    Mode("NX_10", masks_used=True, exits=False, max_turn=10),
)


class Starts(NamedTuple):
    """Episodes that are to be rolled out."""

    users: Array  # [B]
    keys: Key  # [B]


def check_modes(num_items: int, config: EnvironmentConfig) -> None:
    """Refuses episodes without repeats that are longer than there are items.

    Raises:
      ConfigError: the mode, the number of items, and what to set.
    """
    for mode in MODES:
        turns = mode_rules(mode, config).max_turn
        if mode.masks_used and turns > num_items:
            fixed = f"is always {turns} long: use data with as many items"
            mend = f"set environment.max_turn={num_items}"
            raise ConfigError(
                f"evaluation mode {mode.name} recommends no item twice, and there are "
                f"{num_items} items for {turns} turns; it "
                + (fixed if mode.max_turn else f"takes fewer if you {mend}")
            )


def evaluation_tables(dataset: Dataset, env: EnvParams) -> EvaluationTables:
    """The true world, as NumPy arrays."""
    true = dataset.true_reward
    return EvaluationTables(
        env=env,
        true_reward=true,
        items=ItemFacts(
            dominated=dataset.dominated.astype(np.float32),
            popularity=statistics.item_popularity(dataset),
        ),
        activity=statistics.activity_groups(dataset, len(ACTIVITY_GROUPS)),
        scale=RewardScale(np.min(true), np.max(true)),
    )


def evaluate(
    params: Params,
    key: Key,
    tables: EvaluationTables,
    *,
    policy: Policy,
    config: ExperimentConfig,
) -> tuple[dict[str, Array], Params]:
    """Every metric of every mode, `{mode}_{metric}` and `{mode}_all_users_R_tra`.

    The key is consumed; the same key draws the same users, whatever the method. Beside
    the metrics the parameters are returned, changed where the policy updates them.

    Raises:
      ConfigError: fewer items than turns (`check_modes`).
    """
    metrics: dict[str, Array] = {}
    num_users, num_items = tables.true_reward.shape
    check_modes(num_items, config.environment)
    meet = _meet if policy.update is None else _meet_and_learn
    for mode in MODES:
        key, user_key, episode_key = jax.random.split(key, 3)
        run = functools.partial(
            episode, tables=tables, mode=mode, policy=policy, config=config
        )
        count = (config.evaluation.episodes,)
        users = jax.random.randint(user_key, count, 0, num_users)
        drawn = Starts(users, jax.random.split(episode_key, count))
        everybody = _everybody(num_users if config.evaluation.all_users else 0)
        of_drawn, of_everybody, params = meet(run, params, drawn, everybody)
        values = episode_metrics(
            of_drawn, tables.activity[users], tables.items, tables.env
        )
        metrics |= {f"{mode.name}_{k}": v for k, v in values._asdict().items()}
        if config.evaluation.all_users:
            mean = jnp.sum(of_everybody.rewards) / num_users
            metrics[f"{mode.name}_all_users_R_tra"] = mean
    return metrics, params


_Met = tuple[Trajectories, Trajectories, Params]  # of the drawn, of everybody, after


def _everybody(num_users: int) -> Starts:
    """The users from 0, with random numbers that all epochs and methods share."""
    users = jnp.arange(num_users)
    fold = functools.partial(jax.random.fold_in, jax.random.key(_COMMON_SEED))
    return Starts(users, jax.vmap(fold)(users))


def _meet(
    run: functools.partial, params: Params, drawn: Starts, everybody: Starts
) -> _Met:
    """Both side by side: one loop over turns to compile, and to wait for."""
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), drawn, everybody)
    trajectories = _side_by_side(run, params, both)
    count = drawn.users.shape[0]
    first = jax.tree.map(lambda leaf: leaf[:, :count], trajectories)
    rest = jax.tree.map(lambda leaf: leaf[:, count:], trajectories)
    return first, rest, params


def _meet_and_learn(
    run: functools.partial, params: Params, drawn: Starts, everybody: Starts
) -> _Met:
    """The drawn one after another, then everybody, who leaves nothing."""
    first, params = _one_after_another(run, params, drawn)
    return first, _side_by_side(run, params, everybody), params


def _side_by_side(
    run: functools.partial, params: Params, starts: Starts
) -> Trajectories:
    """Episodes that know nothing of each other, a block at a time; time in front."""

    def alone(start: Starts) -> Trajectories:
        return run(params, *start)[0]

    if starts.users.shape[0] > _USERS_AT_ONCE:
        trajectories = lax.map(alone, starts, batch_size=_USERS_AT_ONCE)
    else:
        trajectories = jax.vmap(alone)(starts)
    return _time_in_front(trajectories)


def _one_after_another(
    run: functools.partial, params: Params, starts: Starts
) -> tuple[Trajectories, Params]:
    """Episodes of which each begins with the parameters that the last one left."""

    def following(params: Params, start: Starts) -> tuple[Params, Trajectories]:
        trajectory, params = run(params, *start)
        return params, trajectory

    params, stacked = lax.scan(following, params, starts)
    return _time_in_front(stacked), params


def _time_in_front(trajectories: Trajectories) -> Trajectories:
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trajectories)


def episode(
    params: Params,
    user: Array,
    key: Key,
    *,
    tables: EvaluationTables,
    mode: Mode,
    policy: Policy,
    config: ExperimentConfig,
) -> tuple[Trajectories, Params]:
    """One episode of one user `[T]`, and the parameters after it.

    _Unbatched_; the key is consumed.
    """
    rules = mode_rules(mode, config.environment)
    history = max(config.tracker.window, rules.exit_window)
    num_items = tables.true_reward.shape[1]
    update = policy.update or _unchanged

    def turn(
        carry: tuple[EnvState, Key, Params], _: None
    ) -> tuple[tuple[EnvState, Key, Params], Trajectories]:
        state, key, params = carry
        key, act_key = jax.random.split(key)
        item = policy.act(
            params,
            act_key,
            user,
            environment.observe(state, config.tracker.window),
            state.used if mode.masks_used else None,
            tables.scale,
        )
        alive = state.discount
        reward = tables.true_reward[user, item]
        following = environment.step(state, item, reward, tables.env, config=rules)
        params = update(params, item, alive)
        return (following, key, params), Trajectories(item, reward * alive, alive)

    start = environment.reset(user, num_items, history)
    carry, trajectory = lax.scan(turn, (start, key, params), None, rules.max_turn)
    return trajectory, carry[2]


def _unchanged(params: Params, item: Array, weight: Array) -> Params:
    del item, weight
    return params


def mode_rules(mode: Mode, config: EnvironmentConfig) -> EnvironmentConfig:
    """The environment's configuration in this mode."""
    return dataclasses.replace(
        config,
        exit_rule=config.exit_rule if mode.exits else "none",
        max_turn=mode.max_turn or config.max_turn,
    )
