"""UCB and epsilon-greedy on one world model (protocol 8).

The DeepFM learns one pass over the log an epoch and is evaluated in between, as
published, so that the score of 200 epochs is that of 200 world models. UCB is the one
method that learns from evaluation: how often it recommended each item, in all modes and
to all drawn users, from the first epoch to the last.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from darlr_jax.agents import categorical
from darlr_jax.baselines.fixed import best_allowed
from darlr_jax.config import BanditConfig, ExperimentConfig
from darlr_jax.data.dataset import Dataset, InteractionLog
from darlr_jax.networks.deepfm import WorldModelNetwork
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    Learner,
    Observation,
    Policy,
    RewardScale,
    Table,
)
from darlr_jax.world_model.ensemble import (
    Member,
    Sides,
    build_network,
    draw_order,
    init_member,
    train_steps,
)
from darlr_jax.world_model.negatives import TrainingPairs, draw_training_pairs

_CELLS_AT_ONCE = 1 << 16  # bounds the memory of predicting


class BanditTables(NamedTuple):
    """What the world model is fitted to, and asked for."""

    pairs: TrainingPairs
    sides: Sides
    users: Table  # [U] ids of the environment's users among the logged ones
    items: Table  # [I]
    held_out: tuple[Table, Table, Table]  # users, items, labels [N]


class BanditState(struct.PyTreeNode):
    """A run between two epochs."""

    member: Member  # the world model
    counts: Array  # [I] int32, times each item was recommended, and one more
    evaluation_key: Key  # constant
    epoch: Array  # [] int32
    env_steps: Array  # [] int32, always 0: nobody is simulated


class BanditParams(NamedTuple):
    """What a bandit recommends by."""

    prediction: Array  # [U, I]
    counts: Array  # [I] int32


class BanditProgram(NamedTuple):
    """A bandit, ready to be compiled."""

    config: ExperimentConfig
    network: WorldModelNetwork
    optimizer: optax.GradientTransformation


def build_ucb(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, BanditTables]:
    """The item of the highest prediction plus confidence bound."""
    del world_model
    act = functools.partial(upper_confidence_bound, config=config.bandit)
    return _build(dataset, config, Policy(act, count))


def build_epsilon_greedy(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, BanditTables]:
    """The item of the highest prediction, now and then any other."""
    del world_model
    return _build(
        dataset, config, Policy(functools.partial(explore, config=config.bandit))
    )


def _build(
    dataset: Dataset, config: ExperimentConfig, policy: Policy
) -> tuple[Learner, BanditTables]:
    sides, network = build_network(dataset, config.world_model)
    optimizer = optax.adam(config.world_model.learning_rate)
    program = BanditProgram(config, network, optimizer)
    model = config.world_model
    learner = Learner(
        config=config,
        init=functools.partial(init_state, program=program),
        train_epoch=functools.partial(train_epoch, program=program),
        policy=policy,
        policy_params=functools.partial(policy_params, program=program),
        after_evaluation=keep_counts,
        program=program,
    )
    tables = BanditTables(
        pairs=draw_training_pairs(dataset, model.negatives, model.seed),
        sides=sides,
        users=dataset.environment_users,
        items=dataset.environment_items,
        held_out=_columns(dataset.held_out),
    )
    return learner, tables


def _columns(log: InteractionLog) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return log.users, log.items, log.labels


def init_state(
    key: Key, tables: BanditTables, *, program: BanditProgram
) -> BanditState:
    """A fresh run of one seed; the key is consumed.

    Split as that of A2C, so that a seed is evaluated on the same users. Every item
    counts as recommended once, as published: the first bounds are finite and equal.
    """
    init_key, order_key, _, evaluation_key = jax.random.split(key, 4)
    network, optimizer = program.network, program.optimizer
    return BanditState(
        member=init_member(
            init_key, order_key, tables.sides, network=network, optimizer=optimizer
        ),
        counts=jnp.ones(tables.items.shape, jnp.int32),
        evaluation_key=evaluation_key,
        epoch=jnp.zeros((), jnp.int32),
        env_steps=jnp.zeros((), jnp.int32),
    )


def train_epoch(
    state: BanditState,
    tables: BanditTables,
    coefficients: Coefficients,
    *,
    program: BanditProgram,
) -> tuple[BanditState, dict[str, Array]]:
    """One pass of the world model over all pairs of the log.

    Returns:
      The state, and `world_model_loss` (a pair, decay left out), `held_out_mae` and
      `held_out_mse` in units of the label.
    """
    del coefficients
    config, size = program.config.world_model, tables.pairs.negative_users.shape[0]
    member, order = draw_order(state.member, size=size, batch_size=config.batch_size)
    member, loss = train_steps(
        member,
        order,
        tables.pairs,
        tables.sides,
        network=program.network,
        optimizer=program.optimizer,
        config=config,
    )
    state = state.replace(member=member, epoch=state.epoch + 1)
    metrics = {"world_model_loss": loss / size}
    return state, metrics | _held_out_errors(member, tables, program.network)


def _held_out_errors(
    member: Member, tables: BanditTables, network: WorldModelNetwork
) -> dict[str, Array]:
    """Errors at the held-out rows."""
    users, items, labels = tables.held_out

    def predict(row: tuple[Array, Array]) -> Array:
        mean: Array = network.apply(member.params, *row, *tables.sides).mean
        return mean

    predicted = lax.map(predict, (users, items), batch_size=_CELLS_AT_ONCE)
    error = predicted - labels
    return {
        "held_out_mae": jnp.mean(jnp.abs(error)),
        "held_out_mse": jnp.mean(error**2),
    }


def policy_params(
    state: BanditState, tables: BanditTables, *, program: BanditProgram
) -> BanditParams:
    """The present predictions of every cell of the environment, and the counts."""

    def predict(user: Array) -> Array:
        users = jnp.broadcast_to(user, tables.items.shape)
        apply = program.network.apply
        mean: Array = apply(
            state.member.params, users, tables.items, *tables.sides
        ).mean
        return mean

    rows = max(1, _CELLS_AT_ONCE // tables.items.shape[0])
    return BanditParams(lax.map(predict, tables.users, batch_size=rows), state.counts)


def keep_counts(state: BanditState, params: BanditParams) -> BanditState:
    """The state that remembers what was recommended in evaluation."""
    return state.replace(counts=params.counts)


def count(params: BanditParams, item: Array, weight: Array) -> BanditParams:
    """The parameters after `item []` was recommended (or was not: weight 0)."""
    counts = params.counts.at[item].add(weight.astype(jnp.int32))
    return params._replace(counts=counts)


def upper_confidence_bound(
    params: BanditParams,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
    *,
    config: BanditConfig,
) -> Array:
    """The allowed item `[]` of most prediction + sqrt(c ln n / n_i). _Unbatched_.

    n_i are the recommendations of item i so far, n those of all items.
    """
    del key, observation, scale
    total = jnp.sum(params.counts).astype(jnp.float32)
    bonus = jnp.sqrt(config.confidence * jnp.log(total) / params.counts)
    return best_allowed(params.prediction[user] + bonus, used)


def explore(
    params: BanditParams,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
    *,
    config: BanditConfig,
) -> Array:
    """The best allowed item `[]`, with probability epsilon any allowed. _Unbatched_.

    The key is consumed.
    """
    del observation, scale
    coin_key, item_key = jax.random.split(key)
    values = params.prediction[user]
    mask = categorical.allowed(used)
    uniform = jax.random.uniform(item_key)
    anything = categorical.sample(uniform, jnp.zeros_like(values), mask)
    explores = jax.random.uniform(coin_key) < config.epsilon
    return jnp.where(explores, anything, best_allowed(values, used))
