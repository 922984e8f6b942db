"""The compiled training epoch of one seed; `vmap` it over seeds."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.training.program import Program
from darlr_jax.training.rollout import collect, state_reward_scale
from darlr_jax.training.update import update_agents
from darlr_jax.types import (
    Array,
    Coefficients,
    SimulationTables,
    TrainState,
    Transition,
)


class Sums(NamedTuple):
    """What an epoch adds up to."""

    metrics: dict[str, Array]  # over real transitions
    losses: dict[str, Array]  # over collects
    picks: Array  # [U] times each user was picked as a reference, or [0]
    transitions: Array  # [] real ones
    collects: Array  # []


def train_epoch(
    state: TrainState,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[TrainState, dict[str, Array]]:
    """Collects and learns until `coefficients.steps_per_epoch` real transitions.

    Returns:
      The state after the epoch and scalar metrics: means over its transitions and its
      updates, and `effective_users_picked`, the exponential of the entropy of the share
      of picks that each user got.
    """
    # Compiled by itself, it is traced once: for its shapes, and in the loop.
    advance = jax.jit(functools.partial(_collect_and_learn, program=program))

    # The limit is carried: of a loop whose condition reads a constant, JAX's checker of
    # key reuse looks at the wrong arguments (jax 0.10).
    def step(carry: tuple[TrainState, Sums, Array]) -> tuple[TrainState, Sums, Array]:
        state, sums, limit = carry
        state, added = advance(state, tables, coefficients)
        return state, jax.tree.map(jnp.add, sums, added), limit

    def unfinished(carry: tuple[TrainState, Sums, Array]) -> Array:
        _, sums, limit = carry
        return sums.transitions < limit

    _, shapes = jax.eval_shape(advance, state, tables, coefficients)
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    start = (state, zeros, coefficients.steps_per_epoch)
    # Lifted over seeds it goes on while any seed does, and selects each seed's old or
    # new state: the store of estimates is then held twice, and copied at every collect.
    state, sums, _ = lax.while_loop(unfinished, step, start)
    state = state.replace(epoch=state.epoch + 1)
    return state, _epoch_metrics(sums)


def _collect_and_learn(
    state: TrainState,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> tuple[TrainState, Sums]:
    key, collect_key, update_key = jax.random.split(state.key, 3)
    transitions, previous = collect(
        state, collect_key, tables, coefficients, program=program
    )
    scale = state_reward_scale(tables.rewards, coefficients)
    state, losses = update_agents(
        state, transitions, update_key, scale, tables.users, program=program
    )
    made = jnp.sum(transitions.weight)
    steps = made.astype(jnp.int32)
    state = state.replace(
        previous_estimates=previous, key=key, env_steps=state.env_steps + steps
    )
    metrics = {
        name: jnp.sum(values * transitions.weight)
        for name, values in transitions.metrics.items()
    }
    picks = _count_picks(transitions, tables.users.feedback.shape[0])
    return state, Sums(metrics, losses, picks, steps, jnp.ones(()))


def _count_picks(transitions: Transition, num_users: int) -> Array:
    if transitions.selector is None:
        return jnp.zeros((0,))
    picked = transitions.selector.users  # [T, B, K]
    weight = jnp.broadcast_to(transitions.weight[..., None], picked.shape)
    return jnp.zeros((num_users,)).at[picked.ravel()].add(weight.ravel())


def _epoch_metrics(sums: Sums) -> dict[str, Array]:
    metrics = {k: v / sums.transitions for k, v in sums.metrics.items()}
    for name, value in sums.losses.items():
        is_loss = not name.endswith(("_entropy", "_explained_variance"))
        metrics[f"{name}_loss" if is_loss else name] = value / sums.collects
    if "first_visits" in metrics:
        first = metrics.pop("first_visits")
        metrics["uncertainty_first"] /= jnp.maximum(first, 1e-9)
        metrics["uncertainty_repeat"] /= jnp.maximum(1 - first, 1e-9)
        metrics["first_visit_share"] = first
    if sums.picks.shape[0]:
        share = sums.picks / jnp.sum(sums.picks)
        spread = -jnp.sum(jnp.where(share > 0, share * jnp.log(share), 0.0))
        metrics["effective_users_picked"] = jnp.exp(spread)
    return metrics
