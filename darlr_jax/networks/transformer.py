"""A post-norm transformer encoder over a short window, read at its newest token.

Used twice: by the state tracker over the last recommendations and by the selector over
the last picked users. The published tracker reads the *oldest* slot without a padding
mask; here absent tokens are masked and the newest is read, unless asked otherwise
(docs/deviations.md).
"""

from __future__ import annotations

import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from darlr_jax.networks.base import Dropout, Linear, symmetric_uniform
from darlr_jax.types import Array

# Xavier over query, key and value as the one matrix that the published code draws.
_packed_xavier = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
_MASKED = -1e9  # finite, so that a row without any valid token stays free of nan


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """Position codes `[length, width]`; position 0 is the newest token."""
    rates = np.exp(np.arange(0, width, 2) * (-np.log(10_000.0) / width))
    angles = np.arange(length)[:, None] * rates[None, :]
    codes = np.zeros((length, width), np.float32)
    codes[:, 0::2] = np.sin(angles)
    codes[:, 1::2] = np.cos(angles)[:, : width // 2]
    return codes


class Attention(nn.Module):
    """Multi-head attention of `queries` to `tokens`."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, queries: Array, tokens: Array, valid: Array, deterministic: bool
    ) -> Array:
        """Maps queries `[..., Q, D]` and tokens `[..., W, D]` to `[..., Q, D]`."""
        width = tokens.shape[-1]
        head_shape = (self.heads, width // self.heads)

        def project(name: str, inputs: Array) -> Array:
            dense = nn.Dense(width, kernel_init=_packed_xavier, name=name)
            return dense(inputs).reshape(*inputs.shape[:-1], *head_shape)

        query, key, value = (
            project("query", queries),
            project("key", tokens),
            project("value", tokens),
        )
        scores = jnp.einsum("...qhd,...whd->...hqw", query, key) / np.sqrt(
            head_shape[1]
        )
        scores = jnp.where(valid[..., None, None, :], scores, _MASKED)
        weights = Dropout(self.dropout)(nn.softmax(scores), deterministic=deterministic)
        mixed = jnp.einsum("...hqw,...whd->...qhd", weights, value)
        out = nn.Dense(width, kernel_init=symmetric_uniform(width), name="out")
        return out(mixed.reshape(queries.shape))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual and norm."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self, queries: Array, tokens: Array, valid: Array, deterministic: bool
    ) -> Array:
        """Maps queries `[..., Q, D]` to `[..., Q, D]`."""
        width = queries.shape[-1]

        def drop(inputs: Array) -> Array:
            return Dropout(self.dropout)(inputs, deterministic)

        attention = Attention(self.heads, self.dropout)
        attended = attention(queries, tokens, valid, deterministic)
        hidden = nn.LayerNorm(epsilon=1e-5)(queries + drop(attended))
        inner = drop(nn.relu(Linear(width)(hidden)))
        return nn.LayerNorm(epsilon=1e-5)(hidden + drop(Linear(width)(inner)))


class WindowTransformer(nn.Module):
    """`layers` encoder layers; the last one computes what is read alone.

    `reads_newest=False` is the published readout: the oldest slot, absent tokens as
    zeros that are attended to.
    """

    layers: int
    heads: int
    dropout: float = 0.0
    reads_newest: bool = True

    @nn.compact
    def __call__(
        self, tokens: Array, valid: Array, deterministic: bool = True
    ) -> Array:
        """Maps tokens `[..., W, D]`, newest first, and valid `[..., W]` to `[..., D]`.

        Raises:
          ValueError: the number of heads does not divide D.
        """
        length, width = tokens.shape[-2:]
        if width % self.heads:
            raise ValueError(
                f"{self.heads} attention heads do not divide the token width {width}: "
                "set the number of heads to a divisor"
            )
        positions = jnp.asarray(sinusoidal_positions(length, width))
        positions = positions.reshape((1,) * (tokens.ndim - 2) + positions.shape)
        tokens = Dropout(self.dropout)(tokens + positions, deterministic=deterministic)
        read = slice(0, 1) if self.reads_newest else slice(length - 1, length)
        if not self.reads_newest:
            valid = jnp.ones_like(valid)
        for layer in range(self.layers):
            queries = tokens[..., read, :] if layer == self.layers - 1 else tokens
            encoder = EncoderLayer(self.heads, self.dropout)
            tokens = encoder(queries, tokens, valid, deterministic)
        return tokens[..., 0, :]
