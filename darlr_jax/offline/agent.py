"""The offline learner: tracker and heads, one compiled epoch of updates, and acting."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from darlr_jax.agents import categorical
from darlr_jax.config import ConfigError, ExperimentConfig
from darlr_jax.data.dataset import Dataset
from darlr_jax.networks.state_tracker import make_state_tracker, state_width
from darlr_jax.offline import bcq, cql, crr, sqn
from darlr_jax.offline.objective import (
    Batch,
    HeadParams,
    Heads,
    Objective,
    init_heads,
)
from darlr_jax.offline.replay import Replay, Sample, build_replay, draw
from darlr_jax.simulation.tables import environment_params
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    Learner,
    Network,
    Observation,
    Params,
    Policy,
    RewardScale,
    Table,
    WorldModelTables,
)

OBJECTIVES = {
    "sqn": sqn.OBJECTIVE,
    "bcq": bcq.OBJECTIVE,
    "cql": cql.OBJECTIVE,
    "crr": crr.OBJECTIVE,
}


class OfflineTables(NamedTuple):
    """Every array that is read."""

    replay: Replay
    item_vectors: Table  # [I, D-1] where the tracker's item embeddings start


class OfflineParams(NamedTuple):
    """What is learned."""

    tracker: Params
    heads: HeadParams


class OfflineState(struct.PyTreeNode):
    """A run between two epochs."""

    params: OfflineParams
    target: OfflineParams  # of the last synchronisation
    opt_state: Any
    updates: Array  # [] int32 gradient steps so far
    key: Key
    evaluation_key: Key  # constant, as that of every other learner
    epoch: Array  # [] int32
    env_steps: Array  # [] int32 rows drawn so far; of simulated ones there are none


class Program(NamedTuple):
    """An objective, ready to be compiled."""

    config: ExperimentConfig
    objective: Objective
    tracker: Network
    heads: Heads
    optimizer: optax.GradientTransformation
    num_items: int


def build(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> tuple[Learner, OfflineTables]:
    """The learner that `config.learner` names, and its arrays as NumPy arrays.

    Raises:
      ConfigError: an epoch without an update.
      DataError: the log has nothing to learn from.
    """
    training = config.training
    if training.steps_per_epoch < training.batch_size:
        raise ConfigError(
            f"training.steps_per_epoch={training.steps_per_epoch}: below "
            f"training.batch_size={training.batch_size}, an epoch has no update"
        )
    replay = build_replay(dataset, environment_params(dataset, config), config)
    program = make_program(config, *world_model.item_vectors.shape)
    learner = Learner(
        config=config,
        init=functools.partial(init_state, program=program),
        train_epoch=functools.partial(train_epoch, program=program),
        policy=Policy(functools.partial(act, program=program)),
        policy_params=acting_params,
        program=program,
    )
    return learner, OfflineTables(replay, world_model.item_vectors)


def make_program(config: ExperimentConfig, num_items: int, item_width: int) -> Program:
    """Binds the configuration's choices, for item vectors `[I, D-1]`."""
    objective = OBJECTIVES[config.learner]
    return Program(
        config=config,
        objective=objective,
        tracker=make_state_tracker(config.tracker, num_items, item_width),
        heads=objective.make_heads(
            config.recommender.hidden,
            num_items,
            state_width(item_width),
            config.offline,
        ),
        optimizer=optax.adam(config.recommender.learning_rate),
        num_items=num_items,
    )


def init_state(key: Key, tables: OfflineTables, *, program: Program) -> OfflineState:
    """A fresh run of one seed; the key is consumed. Lift over seeds with `vmap`."""
    params_key, _, key, evaluation_key = jax.random.split(key, 4)  # as A2C's
    tracker_key, head_key = jax.random.split(params_key)
    params = OfflineParams(
        program.tracker.init(tracker_key, tables.item_vectors),
        init_heads(head_key, program.heads),
    )
    return OfflineState(
        params=params,
        target=jax.tree.map(jnp.copy, params),  # states are donated: no shared arrays
        opt_state=program.optimizer.init(params),
        updates=jnp.zeros((), jnp.int32),
        key=key,
        evaluation_key=evaluation_key,
        epoch=jnp.zeros((), jnp.int32),
        env_steps=jnp.zeros((), jnp.int32),
    )


# --- learning -------------------------------------------------------------------------


def train_epoch(
    state: OfflineState,
    tables: OfflineTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[OfflineState, dict[str, Array]]:
    """`steps_per_epoch // batch_size` updates on rows drawn from the log.

    Returns:
      The state after the epoch, and the objective's metrics, means over its updates.
    """
    size = program.config.training.batch_size
    updates = coefficients.steps_per_epoch // size
    # Compiled by itself, it is traced once: for its shapes, and in the loop.
    step = jax.jit(functools.partial(_update, program=program))

    def add(_: Array, carry: tuple[OfflineState, dict[str, Array]]) -> tuple:
        state, sums = carry
        state, metrics = step(state, tables.replay)
        return state, jax.tree.map(jnp.add, sums, metrics)

    _, shapes = jax.eval_shape(step, state, tables.replay)
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    state, sums = lax.fori_loop(0, updates, add, (state, zeros))
    state = state.replace(
        epoch=state.epoch + 1, env_steps=state.env_steps + updates * size
    )
    return state, jax.tree.map(lambda total: total / updates, sums)


def _update(
    state: OfflineState, replay: Replay, *, program: Program
) -> tuple[OfflineState, dict[str, Array]]:
    """One gradient step, after copying the parameters to the target if it is due."""
    config = program.config
    due = state.updates % config.offline.target_interval == 0
    target = jax.tree.map(
        lambda new, old: jnp.where(due, new, old), state.params, state.target
    )
    key, draw_key, dropout_key = jax.random.split(state.key, 3)
    sample = draw(
        draw_key,
        replay,
        size=config.training.batch_size,
        window=config.tracker.window,
        n=config.offline.n_step,
        num_items=program.num_items,
    )
    bound = functools.partial(loss, scale=replay.scale, program=program)
    gradient = jax.grad(bound, has_aux=True)
    grads, metrics = gradient(state.params, target, sample, dropout_key)
    updates, opt_state = program.optimizer.update(grads, state.opt_state, state.params)
    state = state.replace(
        params=optax.apply_updates(state.params, updates),
        target=target,
        opt_state=opt_state,
        updates=state.updates + 1,
        key=key,
    )
    return state, metrics


def loss(
    params: OfflineParams,
    target: OfflineParams,
    sample: Sample,
    key: Key,
    *,
    scale: RewardScale,
    program: Program,
) -> tuple[Array, dict[str, Array]]:
    """The objective of a minibatch; the key is consumed by dropout.

    Only the state in which an item was shown is differentiated, and its tracker only
    with `train_tracker`.
    """
    apply, config = program.tracker.apply, program.config.offline
    shown_in = params.tracker
    if not config.train_tracker:
        shown_in = lax.stop_gradient(shown_in)
    following = lax.stop_gradient(apply(params.tracker, sample.following, scale))
    batch = Batch(
        state=apply(shown_in, sample.observation, scale, key),
        following=following,
        old_following=apply(target.tracker, sample.following, scale),
        item=sample.item,
        returns=sample.returns,
        discount=sample.discount,
    )
    value, metrics = program.objective.loss(
        params.heads, target.heads, batch, heads=program.heads, config=config
    )
    return value, {"loss": value} | metrics


# --- acting ---------------------------------------------------------------------------


class ActingParams(NamedTuple):
    """What recommending takes."""

    params: OfflineParams
    scale: RewardScale  # that of the log, in which was learned


def acting_params(state: OfflineState, tables: OfflineTables) -> ActingParams:
    """Rewards enter the state as they did while learning (protocol 10.2, B7)."""
    return ActingParams(state.params, tables.replay.scale)


def act(
    acting: ActingParams,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
    *,
    program: Program,
) -> Array:
    """The item `[]` that is wanted most, or drawn. _Unbatched_; the key is consumed.

    What `used` says is excluded by a mask, whatever the sign of the preferences.
    """
    del user, scale
    params = acting.params
    state = program.tracker.apply(params.tracker, observation, acting.scale)
    free = categorical.allowed(used)
    wanted = program.objective.preferences(
        params.heads, state, free, heads=program.heads, config=program.config.offline
    )
    if program.objective.samples:
        return categorical.sample(jax.random.uniform(key), wanted, free)
    if free is not None:
        wanted = jnp.where(free, wanted, -jnp.inf)
    return jnp.argmax(wanted)
