"""Categorical policies whose logits are dot products of a query and a key each action.

With probabilities p, the expected key E[k] = sum_i p_i k_i says all that learning needs
of the actions that were not taken: the entropy is log Z - q . E[k], and the gradient of
log p_a with respect to the query is k_a - E[k]. It is summed up over blocks of actions,
so that no array over all of them exists, forward or backward: with 27,285 users and 150
picks these arrays, not the arithmetic, are what learning would cost.

What a log-probability is made of is multiplied in full precision, on any device: were
its two parts rounded apart, an almost certain action would be more than certain.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.agents.categorical import MASKED
from darlr_jax.types import Array

EXACT = lax.Precision.HIGHEST  # of draws too: acted and learned is one policy

Residuals = tuple[Array, Array, Array, Array, Array, Array, Array]


class Evaluation(NamedTuple):
    """What an actor-critic loss needs of stored actions."""

    log_prob: Array  # [M, K] of each action, given those before it
    entropy: Array  # [M, K] in nats, of each choice


class _Blocks(NamedTuple):
    """Keys and turns, a block of actions at a time."""

    keys: Array  # [n, block, D]
    turn: Array  # [n, M, block]


def evaluate(
    query: Array,
    keys: Array,
    turn: Array,
    action: Array,
    *,
    block: int,
    entropy_gradient: bool = True,
) -> Evaluation:
    """Log-probabilities and entropies of K choices without replacement.

    Args:
      query: `[M, K, D]`, of each choice.
      keys: `[A, D]`, of each action.
      turn: `[M, A]` int32, the last choice that may take an action: the one that took
        it; K - 1 or more where none did, -1 where none may.
      action: `[M, K]` int32, what was taken.
      block: actions at a time.
      entropy_gradient: whether the entropy is differentiated; otherwise it counts as a
        constant, which saves a matrix product.

    Returns:
      The evaluation, differentiable with respect to query and keys.
    """
    block = min(block, keys.shape[0])
    return _evaluate(query, keys, turn, action, block, entropy_gradient)


def evaluate_each(
    query: Array,
    keys: Array,
    turn: Array,
    action: Array,
    *,
    block: int,
    entropy_gradient: bool = True,
) -> Evaluation:
    """As `evaluate`, where each row has actions of its own: keys `[M, A, D]`."""

    def one(*row: Array) -> Evaluation:
        query, keys, turn, action = row
        found = evaluate(
            query[None],
            keys,
            turn[None],
            action[None],
            block=block,
            entropy_gradient=entropy_gradient,
        )
        return jax.tree.map(lambda leaf: leaf[0], found)

    return jax.vmap(one)(query, keys, turn, action)


def last_turns(action: Array, num_actions: int) -> Array:
    """The `turn` `[M, A]` of actions `[M, K]` taken without replacement."""
    size, choices = action.shape
    turn = jnp.full((size, num_actions), choices, jnp.int32)
    rows = jnp.arange(size)[:, None]
    return turn.at[rows, action].set(jnp.arange(choices)[None, :])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _evaluate(
    query: Array, keys: Array, turn: Array, action: Array, block: int, through: bool
) -> Evaluation:
    return _forward(query, keys, turn, action, block, through)[0]


def _forward(
    query: Array, keys: Array, turn: Array, action: Array, block: int, through: bool
) -> tuple[Evaluation, Residuals]:
    """A running maximum keeps the sums of exponentials in range, block after block."""
    del through

    def add(sums: tuple[Array, Array], actions: _Blocks) -> tuple:
        highest, total = sums
        logits = _logits(query, actions)
        top = jnp.maximum(highest, jnp.max(logits, axis=-1))
        weights = jnp.exp(logits - top[..., None])
        ones = jnp.ones((actions.keys.shape[0], 1))
        keys = jnp.concatenate([actions.keys, ones], axis=1)
        added = jnp.matmul(weights, keys, precision=EXACT)
        return (top, total * jnp.exp(highest - top)[..., None] + added), None

    shape = query.shape[:-1]
    zeros = jnp.zeros((*shape, query.shape[-1] + 1))
    start = (jnp.full(shape, MASKED), zeros)
    (highest, total), _ = lax.scan(add, start, _blocks(keys, turn, block))
    expected = total[..., :-1] / total[..., -1:]
    log_norm = highest + jnp.log(total[..., -1])
    log_prob = jnp.sum(query * keys[action], axis=-1) - log_norm
    entropy = log_norm - jnp.sum(query * expected, axis=-1)
    residuals = (query, keys, turn, action, log_norm, expected, entropy)
    return Evaluation(log_prob, entropy), residuals


def _backward(
    block: int, through: bool, residuals: Residuals, cotangent: Evaluation
) -> tuple[Array, Array, None, None]:
    """To the logits: d log p_a = 1_a - p and d H_i = -p_i (log p_i + H)."""
    query, keys, turn, action, log_norm, expected, entropy = residuals
    by_log_prob, by_entropy = (leaf[..., None] for leaf in cotangent)
    scaled = by_log_prob * query
    flat = query.reshape(-1, query.shape[-1])

    def add(to_query: Array, actions: _Blocks) -> tuple[Array, Array]:
        log_probs = _logits(query, actions) - log_norm[..., None]
        slope = -jnp.exp(log_probs)
        if not through:
            return to_query, _outer(scaled.reshape(flat.shape), slope)
        of_entropy = slope * by_entropy * (log_probs + entropy[..., None])
        slope = slope * by_log_prob + of_entropy
        return to_query + of_entropy @ actions.keys, _outer(flat, slope)

    taken = keys[action]
    to_query = by_log_prob * (taken - expected)
    to_query, to_keys = lax.scan(add, to_query, _blocks(keys, turn, block))
    to_keys = jnp.swapaxes(to_keys, 1, 2).reshape(-1, keys.shape[1])[: keys.shape[0]]
    return to_query, to_keys.at[action].add(scaled), None, None


_evaluate.defvjp(_forward, _backward)


def _blocks(keys: Array, turn: Array, block: int) -> _Blocks:
    """The last block is filled up with actions that nothing may take."""
    count = -(-keys.shape[0] // block)
    padding = (0, count * block - keys.shape[0])
    keys = jnp.pad(keys, (padding, (0, 0)))
    turn = jnp.pad(turn, ((0, 0), padding), constant_values=-1)
    return _Blocks(
        keys.reshape(count, block, -1),
        jnp.swapaxes(turn.reshape(-1, count, block), 0, 1),
    )


def _logits(query: Array, actions: _Blocks) -> Array:
    """Logits `[M, K, block]`; of actions taken before, or forbidden, minus infinity."""
    choice = jnp.arange(query.shape[1])
    free = actions.turn[:, None, :] >= choice[None, :, None]
    logits = jnp.matmul(query, actions.keys.T, precision=EXACT)
    return jnp.where(free, logits, MASKED)


def _outer(query: Array, slope: Array) -> Array:
    """Sum over choices of query times slope `[D, block]`.

    This order of the product is several times faster on a CPU than its transpose.
    """
    return query.T @ slope.reshape(query.shape[0], -1)
