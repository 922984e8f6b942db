"""Evaluation episodes in the modes FB, NX_0 and NX_10 (protocol 6).

The recommender acts alone; actions are sampled, as published. Two estimators stand
side by side: the published one (some users, drawn anew each epoch) and all users with
common random numbers, whose differences between epochs and methods are not blurred by
the draw of users.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from darlr_jax.agents import recommender
from darlr_jax.agents.recommender import RecommenderNetworks, RecommenderParams
from darlr_jax.config import EnvironmentConfig, ExperimentConfig
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
    params: RecommenderParams,
    key: Key,
    tables: EvaluationTables,
    *,
    networks: RecommenderNetworks,
    config: ExperimentConfig,
) -> dict[str, Array]:
    """Every metric of every mode, `{mode}_{metric}` and `{mode}_all_users_R_tra`.

    The key is consumed; the same key draws the same users, whatever the method.
    """
    metrics: dict[str, Array] = {}
    num_users = tables.true_reward.shape[0]
    for mode in MODES:
        key, user_key, episode_key = jax.random.split(key, 3)
        run = functools.partial(
            episode, params, tables=tables, mode=mode, networks=networks, config=config
        )
        users = jax.random.randint(
            user_key, (config.evaluation.episodes,), 0, num_users
        )
        keys = jax.random.split(episode_key, config.evaluation.episodes)
        drawn = _episodes(run, users, keys)
        values = episode_metrics(
            drawn, tables.activity[users], tables.items, tables.env
        )
        metrics |= {f"{mode.name}_{k}": v for k, v in values._asdict().items()}
        if config.evaluation.all_users:
            users = jnp.arange(num_users)
            fold = functools.partial(jax.random.fold_in, jax.random.key(_COMMON_SEED))
            everybody = _episodes(run, users, jax.vmap(fold)(users))
            mean = jnp.sum(everybody.rewards) / num_users
            metrics[f"{mode.name}_all_users_R_tra"] = mean
    return metrics


def _episodes(run: functools.partial, users: Array, keys: Key) -> Trajectories:
    """Lifts an episode over users, a block of them at a time; time stays in front."""
    lifted = jax.vmap(run)
    if users.shape[0] > _USERS_AT_ONCE:
        trajectories = lax.map(
            lambda pair: run(*pair), (users, keys), batch_size=_USERS_AT_ONCE
        )
    else:
        trajectories = lifted(users, keys)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), trajectories)


def episode(
    params: RecommenderParams,
    user: Array,
    key: Key,
    *,
    tables: EvaluationTables,
    mode: Mode,
    networks: RecommenderNetworks,
    config: ExperimentConfig,
) -> Trajectories:
    """One episode of one user `[T]`. _Unbatched_; the key is consumed."""
    rules = mode_rules(mode, config.environment)
    history = max(config.tracker.window, rules.exit_window)
    num_items = tables.true_reward.shape[1]

    def turn(
        carry: tuple[EnvState, Key], _: None
    ) -> tuple[tuple[EnvState, Key], Trajectories]:
        state, key = carry
        key, act_key = jax.random.split(key)
        action = recommender.act(
            params,
            act_key,
            environment.observe(state, config.tracker.window),
            state.used if mode.masks_used else None,
            tables.scale,
            networks=networks,
            explore=False,
        )
        alive = state.discount
        reward = tables.true_reward[user, action.item]
        following = environment.step(
            state, action.item, reward, tables.env, config=rules
        )
        return (following, key), Trajectories(action.item, reward * alive, alive)

    start = environment.reset(user, num_items, history)
    _, trajectory = lax.scan(turn, (start, key), None, rules.max_turn)
    return trajectory


def mode_rules(mode: Mode, config: EnvironmentConfig) -> EnvironmentConfig:
    """The environment's configuration in this mode."""
    return dataclasses.replace(
        config,
        exit_rule=config.exit_rule if mode.exits else "none",
        max_turn=mode.max_turn or config.max_turn,
    )
