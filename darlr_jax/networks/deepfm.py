"""DeepFM with a mean and a log-variance head (protocol 2.1)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.config import WorldModelConfig
from darlr_jax.networks.base import MLP, Dense, Linear, call
from darlr_jax.types import Array, Key, Params

_MAX_LOG_VARIANCE, _MIN_LOG_VARIANCE = 0.5, -10.0
_embedding_init = nn.initializers.normal(1e-3)
_linear_init = nn.initializers.normal(1e-4)


class Field(NamedTuple):
    """A vocabulary: what shares one embedding table and one linear table."""

    name: str
    size: int
    padded: bool  # code 0 stands for "absent" and embeds to zero


class Features(NamedTuple):
    """One side's features, as rows that ids point to."""

    codes: tuple[Array, ...]  # a field each, [rows, slots] int32
    dense: Array  # [rows, d] float32, d may be 0


class Prediction(NamedTuple):
    """Predicted distribution of a label."""

    mean: Array  # [...]
    log_variance: Array  # [...]


class DeepFM(nn.Module):
    """Linear + second-order + deep part over id, feature and dense fields."""

    config: WorldModelConfig
    user_fields: tuple[Field, ...]  # the id first
    item_fields: tuple[Field, ...]

    def setup(self) -> None:
        """Declares tables (one a field) and the deep part."""
        width = self.config.embedding_dim
        fields = self.user_fields + self.item_fields
        self.embeddings = {
            f.name: self.param(f"embedding_{f.name}", _embedding_init, (f.size, width))
            for f in fields
        }
        self.linear = {
            f.name: self.param(f"linear_{f.name}", _linear_init, (f.size,))
            for f in fields
        }
        self.dense_linear = Dense(
            1, use_bias=False, kernel_init=nn.initializers.normal(1e-4)
        )
        self.deep = MLP(self.config.hidden, kernel_init=_embedding_init)
        self.mean_head = Linear(1, use_bias=False)
        self.log_variance_head = Linear(1, use_bias=False)
        self.bias = self.param("bias", nn.initializers.zeros, (1,))

    def embed_user(self, users: Array, features: Features) -> Array:
        """The user vector `[..., slots * width + d]`: what policies may start from."""
        return self._flat(
            self._side(self.user_fields, users, features), users, features
        )

    def embed_item(self, items: Array, features: Features) -> Array:
        """The item vector `[..., slots * width + d]`, dense features last."""
        return self._flat(
            self._side(self.item_fields, items, features), items, features
        )

    def __call__(
        self, users: Array, items: Array, user_side: Features, item_side: Features
    ) -> Prediction:
        """Predicts for users and items `[...]`, which broadcast against each other.

        What is a sum over fields is summed over each side first, so that of a grid,
        users `[R, 1]` and items `[1, I]`, a side is computed once and not once a cell.
        """
        user_slots, user_linear = self._side(self.user_fields, users, user_side)
        item_slots, item_linear = self._side(self.item_fields, items, item_side)
        dense = user_side.dense[users], item_side.dense[items]
        sides = user_slots, item_slots
        flat = (slots.reshape(*slots.shape[:-2], -1) for slots in sides)
        hidden = self.deep(*flat, *dense)
        across = jnp.sum(user_slots, -2) * jnp.sum(item_slots, -2)  # [..., width]
        logit = user_linear + item_linear + jnp.sum(across, axis=-1)
        logit = logit + _interaction(user_slots) + _interaction(item_slots)
        logit = logit + self.mean_head(hidden)[..., 0]
        if sum(side.shape[-1] for side in dense):
            logit = logit + self.dense_linear(*dense)[..., 0]
        logit = logit + self.bias.reshape((1,) * logit.ndim)
        mean = nn.sigmoid(logit) if self.config.output == "sigmoid" else logit
        return Prediction(mean, _soft_clamp(self.log_variance_head(hidden)[..., 0]))

    def _side(
        self, fields: tuple[Field, ...], ids: Array, features: Features
    ) -> tuple[Array, Array]:
        """Embeddings `[..., slots, width]` and summed linear terms `[...]`."""
        codes = (ids[..., None], *(table[ids] for table in features.codes))
        embedded, linear = [], []
        for field, code in zip(fields, codes, strict=True):
            present = ((code > 0) | (not field.padded)).astype(jnp.float32)
            embedded.append(self.embeddings[field.name][code] * present[..., None])
            linear.append(jnp.sum(self.linear[field.name][code] * present, axis=-1))
        return jnp.concatenate(embedded, axis=-2), sum(linear[1:], start=linear[0])

    def _flat(self, side: tuple[Array, Array], ids: Array, features: Features) -> Array:
        slots = side[0].reshape(*ids.shape, -1)
        return jnp.concatenate([slots, features.dense[ids]], axis=-1)


def _interaction(slots: Array) -> Array:
    """Products of two slots' vectors, summed over all pairs of `[..., n, width]`."""
    return 0.5 * jnp.sum(jnp.sum(slots, -2) ** 2 - jnp.sum(slots**2, -2), axis=-1)


def _soft_clamp(log_variance: Array) -> Array:
    """Squeezes smoothly into (-10, 0.5), a variance of 4.5e-5 to 1.65."""
    high, low = _MAX_LOG_VARIANCE, _MIN_LOG_VARIANCE
    log_variance = high - nn.softplus(high - log_variance)
    return low + nn.softplus(log_variance - low)


class WorldModelNetwork(NamedTuple):
    """DeepFM as pure functions."""

    init: Any  # (key, user_side, item_side) -> params
    apply: Any  # (params, users, items, user_side, item_side) -> Prediction
    embed_users: Any  # (params, users, user_side) -> [..., ?]
    embed_items: Any  # (params, items, item_side) -> [..., ?]


def make_deepfm(
    config: WorldModelConfig,
    user_fields: tuple[Field, ...],
    item_fields: tuple[Field, ...],
) -> WorldModelNetwork:
    """The world model's network; `user_fields[0]` and `item_fields[0]` are the ids."""
    module = DeepFM(config, user_fields, item_fields)

    def init(key: Key, user_side: Features, item_side: Features) -> Params:
        ids = jnp.zeros((1,), jnp.int32)
        return module.init(key, ids, ids, user_side, item_side)["params"]

    def apply(
        params: Params, users: Array, items: Array, user_side: Any, item_side: Any
    ) -> Prediction:
        return call(module, params, users, items, user_side, item_side)

    def embed_users(params: Params, users: Array, user_side: Features) -> Array:
        return call(module, params, users, user_side, method="embed_user")

    def embed_items(params: Params, items: Array, item_side: Features) -> Array:
        return call(module, params, items, item_side, method="embed_item")

    return WorldModelNetwork(init, apply, embed_users, embed_items)
