"""Advantage actor-critic: returns and the loss. Used twice, by both agents.

The recommender's trajectory is an episode (T recommendations), the selector's is one
recommendation (K picks). Sampling is sequential, learning is not: trajectories are
rolled out without gradients and their stored actions re-evaluated in minibatches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import chex
import jax
import jax.numpy as jnp

from darlr_jax.config import A2CConfig
from darlr_jax.types import Array

_EPSILON = 1e-8


class Weighted(Protocol):
    """A minibatch: a record of arrays `[M, ...]`."""

    @property
    def weight(self) -> Array:
        """Share `[M]` of each row in the minibatch; 0 for padding."""


Batch = TypeVar("Batch", bound=Weighted)
Sums = TypeVar("Sums")


class Losses(NamedTuple):
    """The terms of an actor-critic loss, weighted means over the minibatch."""

    total: Array  # []
    policy: Array  # []
    value: Array  # []
    entropy: Array  # [] of the policy, in nats


class MonteCarlo(NamedTuple):
    """The steps of an episode, once it is over."""

    returns: Array  # [T] G
    target: Array  # [T] what the critic should have said
    advantage: Array  # [T] G minus the baseline


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


def left_by_separate_passes(
    value_t: Array, again_t: Array, going_on_t: Array, discount: float
) -> Array:
    """What GAE with lambda 1 leaves of V(s') - V(s), where a state has two values.

    In sum_t gamma^t (r_t + gamma V'(s_{t+1}) - V(s_t)) the values of later states
    cancel if V' is V. If each has dropout of its own, as in the published code, a
    return has their difference in it (protocol 5): as if the step before had paid it.

    Args:
      value_t: `[T]` V(s_t).
      again_t: `[T]` V'(s_t), of the same states.
      going_on_t: `[T]` 1, and 0 where the episode ends with step t.
      discount: gamma.

    Returns:
      `[T]`, to be added to the rewards. _Unbatched_, as `discounted_returns`.
    """
    chex.assert_rank([value_t, again_t, going_on_t], 1)
    following = jnp.roll(again_t - value_t, -1).at[-1].set(0.0)
    return discount * going_on_t * following


def monte_carlo(
    reward_t: Array, going_on_t: Array, value_t: Array, config: A2CConfig
) -> MonteCarlo:
    """Returns of an episode, what the critic should have said, and A_t = G_t - V_t.

    Episodes end after T steps at the latest, and how many are left makes most of a
    return: a state that does not show it, as a window of the last few steps, leaves the
    critic to guess. With a `critic_target` of "mean_reward" it is asked for G_t over
    the discounted number of steps left until the limit, whoever leaves before it, and
    A_t = G_t - that number * V_t (ours; that time limits belong in the value: Pardo et
    al. 2018). It remains a baseline: the mean gradient is the same.

    Args:
      reward_t: `[T]`.
      going_on_t: `[T]` 1, and 0 where the episode ends with step t.
      value_t: `[T]` what the critic said when acting.
      config: `discount` and `critic_target`.

    _Unbatched_, as `discounted_returns`.
    """
    nothing = jnp.zeros(())
    returns = discounted_returns(reward_t, config.discount * going_on_t, nothing)
    if config.critic_target == "return":
        return MonteCarlo(returns, returns, returns - value_t)
    if config.critic_target != "mean_reward":
        raise NotImplementedError(f"critic_target={config.critic_target!r}")
    before_last = jnp.arange(reward_t.shape[0]) < reward_t.shape[0] - 1
    left = discounted_returns(
        jnp.ones_like(reward_t), config.discount * before_last, nothing
    )
    return MonteCarlo(returns, returns / left, returns - left * value_t)


def explained_variance(returns: Array, advantage: Array, weight: Array) -> Array:
    """1 - Var(A) / Var(G), the share of the returns' variance that the critic foresees.

    0 of one that says the same of every state; below that it does harm. Arrays of one
    shape, `weight` 1 of what is real and 0 of padding; 0 if all returns are the same.
    """
    share = normalized_weights(weight)

    def variance(values: Array) -> Array:
        return jnp.sum(share * (values - jnp.sum(share * values)) ** 2)

    of_returns = variance(returns)
    safe = jnp.where(of_returns > 0, of_returns, 1.0)
    return jnp.where(of_returns > 0, 1.0 - variance(advantage) / safe, 0.0)


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
    minibatch. Chunks behind the last row with a weight are not computed.

    Args:
      function: anything that adds up, as gradients of losses do, and is zero where all
        weights are; of a chunk `[size, ...]` and its number.
      batch: a record of arrays `[M, ...]` with a field `weight`; padded with zeros.
      size: of a chunk.
    """
    length = batch.weight.shape[0]
    size = min(size, length)
    padding = -length % size

    def fill(leaf: Array) -> Array:
        return jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1))

    padded = jax.tree.map(fill, batch)

    def term(index: Array) -> Sums:
        chunk = jax.tree.map(
            lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, index * size, size), padded
        )
        return function(chunk, index)

    rows = jnp.arange(1, length + 1)
    last = jnp.max(jnp.where(batch.weight > 0, rows, 0))
    count = (last + size - 1) // size
    shapes = jax.eval_shape(term, count)
    zeros = jax.tree.map(jnp.zeros_like, shapes)
    return jax.lax.fori_loop(
        0, count, lambda index, sums: jax.tree.map(jnp.add, sums, term(index)), zeros
    )


def normalized_weights(weight: Array) -> Array:
    """`weight` scaled to sum to one; all zeros where nothing is real."""
    return weight / jnp.maximum(jnp.sum(weight), 1.0)


def standardized(advantage: Array, weight: Array) -> Array:
    """Advantages of mean 0 and standard deviation 1 under weights that sum to one."""
    centred = advantage - jnp.sum(weight * advantage)
    return centred / (jnp.sqrt(jnp.sum(weight * centred**2)) + _EPSILON)
