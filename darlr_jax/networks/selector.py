"""The selector's network: a window of user tokens -> a query of users and a value.

A token is the linear image of s_rec ⊕ p_u. The image of a concatenation is the sum of
two images, so the part of the user is computed once for all users (`encode_users`) and
the part of the recommender's state once per recommendation (`encode_context`). So are
the query, the key and the value that the first layer makes of a token: a pick adds two
of each instead of projecting a window of tokens. The actor's logits are dot products of
its query with a key of every user: its parameters do not grow with U.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from darlr_jax.config import SelectorConfig
from darlr_jax.networks.base import MLP, Linear, call
from darlr_jax.networks.transformer import WindowTransformer, sinusoidal_positions
from darlr_jax.types import (
    Array,
    Images,
    Key,
    Params,
    SelectorNetwork,
    SelectorOutput,
    UserCodes,
)


class Selector(nn.Module):
    """Transformer over the last w_sel picks (paper, selector state)."""

    config: SelectorConfig

    def setup(self) -> None:
        """Declares the layers; the methods below share them."""
        width = self.config.width
        self.user_token = Linear(width)
        self.user_key = Linear(width)
        self.context_token = Linear(width)
        self.transformer = WindowTransformer(self.config.layers, self.config.heads)
        self.actor = Linear(width)
        self.critic_hidden = MLP((width,))
        self.critic = Linear(1)

    def encode_users(self, feedback: Array) -> tuple[Array, Array]:
        """Maps feedback vectors `[U, F]` to tokens and keys `[U, width]`."""
        return self.user_token(feedback), self.user_key(feedback)

    def encode_context(self, context: Array) -> Array:
        """Maps the recommender's state `[..., D]` to `[..., width]`."""
        return self.context_token(context)

    def pick(self, tokens: Array | Images, valid: Array) -> SelectorOutput:
        """Maps tokens, or images, `[..., w_sel, width]`, newest first, to an output."""
        hidden = self.transformer(tokens, valid)
        query = self.actor(hidden) / math.sqrt(self.config.width)
        value = self.critic(self.critic_hidden(hidden))
        return SelectorOutput(query, value[..., 0])

    def __call__(self, feedback: Array, context: Array) -> SelectorOutput:
        """Touches every parameter once; for initialisation."""
        tokens, _ = self.encode_users(feedback)
        token = tokens[0] + self.encode_context(context)
        return self.pick(token[None], jnp.ones((1,), bool))


def make_selector(
    config: SelectorConfig, feedback_width: int, context_width: int
) -> SelectorNetwork:
    """The selector's four pure functions; see `types.SelectorNetwork`."""
    module = Selector(config)

    def init(key: Key) -> Params:
        feedback = jnp.zeros((1, feedback_width))
        return module.init(key, feedback, jnp.zeros((context_width,)))["params"]

    def encode_users(params: Params, feedback: Array) -> UserCodes:
        tokens, keys = call(module, params, feedback, method="encode_users")
        return UserCodes(jnp.stack(_images(params, tokens), axis=-2), keys)

    def encode_context(params: Params, context: Array) -> Array:
        token = call(module, params, context, method="encode_context")
        of_context = jnp.stack(_images(params, token), axis=-2)
        of_positions = _position_images(params, config)
        leading = (1,) * (token.ndim - 1)
        return of_context[..., None, :, :] + of_positions.reshape(
            *leading, *of_positions.shape
        )

    def apply(params: Params, images: Array, valid: Array) -> SelectorOutput:
        return call(module, params, unstacked(images), valid, method="pick")

    return SelectorNetwork(init, encode_users, encode_context, apply)


def unstacked(images: Array) -> Images:
    """The four of `[..., 4, width]`."""
    return Images(*(images[..., n, :] for n in range(4)))


def _images(params: Params, tokens: Array) -> Images:
    """What the first layer makes of tokens `[..., width]`, biases left out."""
    return Images(
        tokens,
        *(
            jnp.matmul(tokens, layer.kernel, precision=lax.Precision.HIGHEST)
            for layer in first_projections(params)
        ),
    )


def _position_images(params: Params, config: SelectorConfig) -> Array:
    """What each position adds to a token's images, biases included `[w_sel, 4, D]`."""
    positions = jnp.asarray(sinusoidal_positions(config.window, config.width))
    of_layer = (layer.bias for layer in first_projections(params))
    biases = (jnp.zeros(config.width), *of_layer)
    return jnp.stack(_images(params, positions), axis=-2) + jnp.stack(biases)[None]


class Affine(NamedTuple):
    """The parameters of x -> x @ kernel + bias; of a norm, scale and bias `[D]`."""

    kernel: Any  # [n, m]
    bias: Any  # [m]


class Projections(NamedTuple):
    """What the attention of the first encoder layer makes of a token."""

    query: Affine
    key: Affine
    value: Affine


class PickLayers(NamedTuple):
    """What comes after `Projections` in a selector of one layer, in order of use."""

    out: Affine
    attention_norm: Affine
    inner: Affine
    outer: Affine
    norm: Affine
    actor: Affine
    critic_hidden: Affine
    critic: Affine


def first_projections(params: Params) -> Projections:
    """Those by name; a selector may have more layers after the first."""
    attention = params["transformer"]["EncoderLayer_0"]["Attention_0"]
    return Projections(
        query=_affine(attention["query"]),
        key=_affine(attention["key"]),
        value=_affine(attention["value"]),
    )


def pick_layers(params: Params) -> PickLayers:
    """Those by name, for who computes `apply` by other means (one layer only)."""
    encoder = params["transformer"]["EncoderLayer_0"]
    first, second = encoder["LayerNorm_0"], encoder["LayerNorm_1"]
    return PickLayers(
        out=_affine(encoder["Attention_0"]["out"]),
        attention_norm=Affine(first["scale"], first["bias"]),
        inner=_affine(encoder["Linear_0"]),
        outer=_affine(encoder["Linear_1"]),
        norm=Affine(second["scale"], second["bias"]),
        actor=_affine(params["actor"]),
        critic_hidden=_affine(params["critic_hidden"]["Linear_0"]),
        critic=_affine(params["critic"]),
    )


def _affine(parent: Params) -> Affine:
    layer = parent.get("Dense_0", parent)
    return Affine(layer["kernel"], layer["bias"])
