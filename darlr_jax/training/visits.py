"""What trained agents visit, and what the method would pay for anything else there.

For analysis: after training, beside the epochs. Nothing that learns reads it.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.networks.state_tracker import state_width
from darlr_jax.training import rollout
from darlr_jax.training.program import Program
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    SimulationTables,
    TrainState,
    Transition,
)

_AT_ONCE = 256  # visits whose references are picked side by side; bounds the memory


class Visits(NamedTuple):
    """The turns of training episodes: what was recommended, beside any other item."""

    user: Array  # [T, B] int32
    item: Array  # [T, B] int32, recommended
    estimate: Array  # [T, B] what the method estimated that it pays
    other: Array  # [T, B] int32, an item drawn uniformly from all
    other_estimate: Array  # [T, B] what it estimates for that one, after the episodes
    weight: Array  # [T, B] 1 if the episode was still going


def sample_visits(
    state: TrainState,
    users: Array,
    key: Key,
    tables: SimulationTables,
    coefficients: Coefficients,
    *,
    program: Program,
) -> Visits:
    """An episode of each of the users `[B]`, played as in training; nothing is learned.

    In every state that the recommender meets, reference users are picked for the item
    that it recommends, and once more for another one. The key is consumed.
    """
    play_key, item_key, pick_key = jax.random.split(key, 3)
    transitions, previous = rollout.roll_out(
        state, users, play_key, tables, coefficients, program=program
    )
    shape = transitions.item.shape
    others = jax.random.randint(item_key, shape, 0, tables.rewards.base.shape[1])
    inputs = rollout.rollout_inputs(state, tables, coefficients, program)

    def estimate(user: Array, item: Array, state: Array, key: Key) -> Array:
        references, _ = rollout.select(user, item, state, key, inputs, program)
        return rollout.estimate_reward(
            user, item, references, previous, inputs, program
        ).value

    states, keys = _states(transitions, tables), jax.random.split(pick_key, shape)
    visits = (transitions.user, others, states, keys)
    size = shape[0] * shape[1]
    flat = jax.tree.map(lambda leaf: leaf.reshape(size, *leaf.shape[2:]), visits)
    estimates = lax.map(lambda visit: estimate(*visit), flat, batch_size=_AT_ONCE)
    return Visits(
        user=transitions.user,
        item=transitions.item,
        estimate=transitions.metrics["estimate"],
        other=others,
        other_estimate=estimates.reshape(shape),
        weight=transitions.weight,
    )


def _states(transitions: Transition, tables: SimulationTables) -> Array:
    """The recommender's states `[T, B, D]`, which only a learned selector reads.

    The stored context may end with the vector of the recommended item.
    """
    width = state_width(tables.item_vectors.shape[1])
    if transitions.selector is None:
        return jnp.zeros((*transitions.item.shape, width))
    return transitions.selector.context[..., :width]
