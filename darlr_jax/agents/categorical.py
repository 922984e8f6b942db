"""Masked categorical distributions over large action sets.

Sampling inverts the cumulative distribution with one uniform number a draw: noise for
every action (Gumbel) would cost more than the network. The cumulative sum is taken in
two levels, over rows of about sqrt(A) actions and then within one row.
"""

from __future__ import annotations

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np

from darlr_jax.types import Array

MASKED = -1e30  # finite: a masked action has probability 0 and no nan in its gradient


def allowed(used: Array | None) -> Array | None:
    """The mask `[..., A]` of the actions that are not `used`; None: no mask."""
    return None if used is None else ~used


def masked_log_softmax(logits: Array, mask: Array | None) -> Array:
    """Log-probabilities `[..., A]` over the actions that `mask` allows.

    A row that allows nothing becomes uniform.
    """
    if mask is not None:
        chex.assert_equal_shape([logits, mask])
        logits = jnp.where(mask, logits, MASKED)
    return jax.nn.log_softmax(logits)


def log_prob(log_probs: Array, action: Array) -> Array:
    """The entry of `log_probs [..., A]` at `action [...]`."""
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def entropy(log_probs: Array) -> Array:
    """Entropy in nats `[...]` of log-probabilities `[..., A]`; masked actions add 0."""
    return -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def sample(uniform: Array, logits: Array, mask: Array | None = None) -> Array:
    """The action `[]` that logits `[A]` give for `uniform` in [0, 1). _Unbatched_.

    An action of probability 0 (masked, or underflown) is never drawn, unless the mask
    allows nothing.
    """
    chex.assert_rank(logits, 1)
    if mask is not None:
        logits = jnp.where(mask, logits, MASKED)
    weights = jnp.exp(logits - jnp.max(logits))
    return inverse_cdf(uniform, weights)


def inverse_cdf(uniform: Array, weights: Array) -> Array:
    """The action `[]` at quantile `uniform` of unnormalised weights `[A]`."""
    size = weights.shape[0]
    width = math.isqrt(size - 1) + 1
    height = -(-size // width)
    rows = jnp.pad(weights, (0, height * width - size)).reshape(height, width)
    totals = jnp.sum(rows, axis=1)
    ends = _cumulative(totals)
    target = uniform * ends[-1]
    row = _first_beyond(target, ends, totals)
    offset = target - (ends[row] - totals[row])
    column = _first_beyond(offset, _cumulative(rows[row]), rows[row])
    return row * width + column


def _cumulative(values: Array) -> Array:
    """Running sum `[n]`, as one small matrix product in full precision."""
    lower = np.tri(values.shape[0], dtype=np.float32)
    return jnp.matmul(lower, values, precision=jax.lax.Precision.HIGHEST)


def _first_beyond(target: Array, ends: Array, weights: Array) -> Array:
    """First slot of positive weight that ends beyond `target`, else the last positive.

    Rounding can put `target` at or behind the last end; a slot of weight 0 must not be
    drawn for it.
    """
    positive = weights > 0
    beyond = positive & (ends > target)
    last = positive.shape[0] - 1 - jnp.argmax(positive[::-1])
    return jnp.where(jnp.any(beyond), jnp.argmax(beyond), last)
