"""A post-norm transformer encoder over a short window, read at its newest token.

Used twice: by the state tracker over the last recommendations and by the selector over
the last picked users. Absent tokens are masked and the newest is read; the published
tracker does neither (`state_tracker.py`, docs/deviations.md).
"""

from __future__ import annotations

import numpy as np
from flax import linen as nn
from jax import numpy as jnp

from darlr_jax.networks.base import Dropout, Linear, symmetric_uniform
from darlr_jax.types import Array, Images, Key

# Xavier over query, key and value as the one matrix that the published code draws.
_packed_xavier = nn.initializers.variance_scaling(0.5, "fan_avg", "uniform")
MASKED = -1e9  # finite, so that a row without any valid token stays free of nan


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
        self,
        queries: Array,
        tokens: Array,
        valid: Array,
        dropout_key: Key | None = None,
        images: Images | None = None,
    ) -> Array:
        """Maps queries `[..., Q, D]` and tokens `[..., W, D]` to `[..., Q, D]`.

        Nothing is projected where `images` of both are given.
        """
        width = tokens.shape[-1]
        head_shape = (self.heads, width // self.heads)

        def project(name: str, inputs: Array) -> Array:
            return nn.Dense(width, kernel_init=_packed_xavier, name=name)(inputs)

        if images is None:
            images = Images(
                tokens,
                project("query", queries),
                project("key", tokens),
                project("value", tokens),
            )
        query, key, value = (
            image.reshape(*image.shape[:-1], *head_shape) for image in images[1:]
        )
        scores = jnp.einsum("...qhd,...whd->...hqw", query, key) / np.sqrt(
            head_shape[1]
        )
        scores = jnp.where(valid[..., None, None, :], scores, MASKED)
        weights = Dropout(self.dropout)(nn.softmax(scores), dropout_key)
        mixed = jnp.einsum("...hqw,...whd->...qhd", weights, value)
        out = nn.Dense(width, kernel_init=symmetric_uniform(width), name="out")
        return out(mixed.reshape(queries.shape))


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each followed by dropout, residual and norm."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(
        self,
        queries: Array,
        tokens: Array,
        valid: Array,
        dropout_key: Key | None = None,
        images: Images | None = None,
    ) -> Array:
        """Maps queries `[..., Q, D]` to `[..., Q, D]`."""
        width = queries.shape[-1]

        def drop(inputs: Array) -> Array:
            return Dropout(self.dropout)(inputs, dropout_key)

        attention = Attention(self.heads, self.dropout)
        attended = attention(queries, tokens, valid, dropout_key, images)
        hidden = nn.LayerNorm(epsilon=1e-5)(queries + drop(attended))
        inner = drop(nn.relu(Linear(width)(hidden)))
        return nn.LayerNorm(epsilon=1e-5)(hidden + drop(Linear(width)(inner)))


class WindowTransformer(nn.Module):
    """`layers` encoder layers; the last one computes the token that is read alone."""

    layers: int
    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens: Array | Images,
        valid: Array,
        dropout_key: Key | None = None,
        slot: Array | None = None,
    ) -> Array:
        """Maps tokens `[..., W, D]`, newest first, and valid `[..., W]` to `[..., D]`.

        Args:
          tokens: the window; or the images that the first layer has of it, positions
            and biases in them, so that it need not project them.
          valid: which tokens are attended to.
          dropout_key: without it there is no dropout.
          slot: `[...]` the position that is read; the newest, 0, if None.

        Raises:
          ValueError: the number of heads does not divide D.
        """
        images: Images | None = None
        if isinstance(tokens, Images):
            images, hidden = tokens, tokens.token
        else:
            hidden = Dropout(self.dropout)(_placed(tokens), dropout_key)
        width = hidden.shape[-1]
        if width % self.heads:
            raise ValueError(
                f"{self.heads} attention heads do not divide the token width {width}: "
                "set the number of heads to a divisor"
            )
        for layer in range(self.layers):
            last = layer == self.layers - 1
            queries = _at_slot(hidden, slot) if last else hidden
            if last and images is not None:
                images = images._replace(query=_at_slot(images.query, slot))
            encoder = EncoderLayer(self.heads, self.dropout)
            hidden = encoder(queries, hidden, valid, dropout_key, images)
            images = None  # they were of the first layer
        return hidden[..., 0, :]


def _placed(tokens: Array) -> Array:
    """Tokens `[..., W, D]` with their positions added."""
    positions = jnp.asarray(sinusoidal_positions(*tokens.shape[-2:]))
    return tokens + positions.reshape((1,) * (tokens.ndim - 2) + positions.shape)


def _at_slot(tokens: Array, slot: Array | None) -> Array:
    """The token `[..., 1, D]` at `slot [...]`."""
    if slot is None:
        return tokens[..., :1, :]
    return jnp.take_along_axis(tokens, slot[..., None, None], axis=-2)
