"""Advantage actor-critic: returns and the loss. Used twice, by both agents.

The recommender's trajectory is an episode (T recommendations), the selector's is one
recommendation (K picks). Sampling is sequential, learning is not: trajectories are rolled
out without gradients and their stored actions re-evaluated in minibatches.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from darlr_jax.config import A2CConfig
from darlr_jax.types import Array

_EPSILON = 1e-8


class Losses(NamedTuple):
    """The terms of an actor-critic loss, means over the minibatch."""

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

    Args:
      log_prob: `[M]` of the stored actions under the present parameters.
      value: `[M]` of the stored states, likewise.
      entropy: `[M]` of the policy, likewise.
      target: `[M]` returns G.
      advantage: `[M]` G minus the critic's value when acting; constant.
      weight: `[M]` 1 for a real action, 0 for padding.
      config: weights of the terms; `normalize_advantage` standardises A first.
    """
    chex.assert_rank([log_prob, value, entropy, target, advantage, weight], 1)
    chex.assert_equal_shape([log_prob, value, entropy, target, advantage, weight])
    target, advantage = jax.lax.stop_gradient((target, advantage))
    total_weight = jnp.maximum(jnp.sum(weight), 1.0)

    def mean(terms: Array) -> Array:
        return jnp.sum(weight * terms) / total_weight

    if config.normalize_advantage:
        centred = advantage - mean(advantage)
        advantage = centred / (jnp.sqrt(mean(centred**2)) + _EPSILON)
    policy = -mean(log_prob * advantage)
    value_error = mean((target - value) ** 2)
    mean_entropy = mean(entropy)
    total = policy + config.value_weight * value_error
    total -= config.entropy_weight * mean_entropy
    return Losses(total, policy, value_error, mean_entropy)
