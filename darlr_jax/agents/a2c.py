"""Advantage actor-critic: returns and the loss. Used twice, by both agents.

The recommender's trajectory is an episode (T recommendations), the selector's is one
recommendation (K picks). Sampling is sequential, learning is not: trajectories are
rolled out without gradients and their stored actions re-evaluated in minibatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from darlr_jax.config import A2CConfig
from darlr_jax.types import Array

_EPSILON = 1e-8

Batch = TypeVar("Batch")
Sums = TypeVar("Sums")


class Losses(NamedTuple):
    """The terms of an actor-critic loss, weighted means over the minibatch."""

    total: Array  # []
    policy: Array  # []
    value: Array  # []
    entropy: Array  # [] of the policy, in nats


def discounted_returns(
    reward_t: Array, discount_t: Array, bootstrap_value: Array
) -> Array:
    """Monte-Carlo returns G_t = r_t + gamma_t G_{t+1}, with G_T = `bootstrap_value`.

    Args:
      reward_t: `[T]`.
      discount_t: `[T]` gamma_t, 0 where the episode ends with step t.
      bootstrap_value: `[]` the value after the last step.

    Returns:
      `[T]`. _Unbatched_: lift with `in_axes=1, out_axes=1` (time stays in front).
    """
    chex.assert_rank([reward_t, discount_t, bootstrap_value], [1, 1, 0])

    def step(following: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, discount = inputs
        present = reward + discount * following
        return present, present

    _, returns = jax.lax.scan(
        step, bootstrap_value, (reward_t, discount_t), reverse=True
    )
    return returns


def actor_critic_loss(
    log_prob: Array,
    value: Array,
    entropy: Array,
    target: Array,
    advantage: Array,
    weight: Array,
    config: A2CConfig,
) -> Losses:
    """-mean(log pi(a) A) + w_v mean((G - V)^2) - w_e mean(H) over a minibatch.

    The weights of a minibatch sum to one (`normalized_weights`), so the losses of its
    parts add up to its loss.

    With `probability_floor` f, an action whose probability is outside [f, 1 - f] has no
    policy gradient, so that a saturated policy rests (protocol 5: an effect of the
    published library).

    Args:
      log_prob: `[M]` of the stored actions under the present parameters.
      value: `[M]` of the stored states, likewise.
      entropy: `[M]` of the policy, likewise.
      target: `[M]` returns G.
      advantage: `[M]` G minus the critic's value when acting; constant.
      weight: `[M]` share of each action in the minibatch, 0 for padding.
      config: weights of the terms.
    """
    chex.assert_rank([log_prob, value, entropy, target, advantage, weight], 1)
    chex.assert_equal_shape([log_prob, value, entropy, target, advantage, weight])
    target, advantage = jax.lax.stop_gradient((target, advantage))
    if config.probability_floor:
        floor = config.probability_floor
        log_prob = jnp.clip(log_prob, math.log(floor), math.log1p(-floor))
    policy = -jnp.sum(weight * log_prob * advantage)
    value_error = jnp.sum(weight * (target - value) ** 2)
    mean_entropy = jnp.sum(weight * entropy)
    total = policy + config.value_weight * value_error
    total -= config.entropy_weight * mean_entropy
    return Losses(total, policy, value_error, mean_entropy)


def sum_over_chunks(
    function: Callable[[Batch, Array], Sums], batch: Batch, size: int
) -> Sums:
    """Sums `function(chunk, index)` over chunks of a minibatch.

    What a chunk needs stays in the cache of a CPU, and memory does not grow with the
    minibatch.

    Args:
      function: anything that adds up, as gradients of losses do; of a chunk
        `[size, ...]` and its number.
      batch: a record of arrays `[M, ...]`; padded with zeros, so with `weight` 0.
      size: of a chunk.
    """
    length = jax.tree.leaves(batch)[0].shape[0]
    size = min(size, length)
    count = -(-length // size)

    def split(leaf: Array) -> Array:
        padding = [(0, count * size - length)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, padding).reshape(count, size, *leaf.shape[1:])

    def add(sums: Sums, inputs: tuple[Batch, Array]) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, function(*inputs)), None

    chunks = (jax.tree.map(split, batch), jnp.arange(count))
    shapes = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[0], chunks))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, chunks)[0]


def normalized_weights(weight: Array) -> Array:
    """`weight` scaled to sum to one; all zeros where nothing is real."""
    return weight / jnp.maximum(jnp.sum(weight), 1.0)


def standardized(advantage: Array, weight: Array) -> Array:
    """Advantages of mean 0 and standard deviation 1 under weights that sum to one."""
    centred = advantage - jnp.sum(weight * advantage)
    return centred / (jnp.sqrt(jnp.sum(weight * centred**2)) + _EPSILON)
