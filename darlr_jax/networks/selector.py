"""The selector's network: a window of user tokens -> a query of users and a value.

A token is the linear image of s_rec ⊕ p_u. The image of a concatenation is the sum of
two images, so the part of the user is computed once for all users (`encode_users`) and
the part of the recommender's state once per recommendation (`encode_context`). The
actor's logits are dot products of its query with a key of every user: its parameters do
not grow with U.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.config import SelectorConfig
from darlr_jax.networks.base import MLP, Linear, call
from darlr_jax.networks.transformer import WindowTransformer
from darlr_jax.types import (
    Array,
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

    def encode_users(self, feedback: Array) -> UserCodes:
        """Maps feedback vectors `[U, F]` to tokens and keys `[U, width]`."""
        return UserCodes(self.user_token(feedback), self.user_key(feedback))

    def encode_context(self, context: Array) -> Array:
        """Maps the recommender's state `[..., D]` to `[..., width]`."""
        return self.context_token(context)

    def pick(self, tokens: Array, valid: Array) -> SelectorOutput:
        """Maps tokens `[..., w_sel, width]`, newest first, to `[..., width]`."""
        hidden = self.transformer(tokens, valid)
        query = self.actor(hidden) / math.sqrt(self.config.width)
        value = self.critic(self.critic_hidden(hidden))
        return SelectorOutput(query, value[..., 0])

    def __call__(self, feedback: Array, context: Array) -> SelectorOutput:
        """Touches every parameter once; for initialisation."""
        codes = self.encode_users(feedback)
        token = codes.tokens[0] + self.encode_context(context)
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
        return call(module, params, feedback, method="encode_users")

    def encode_context(params: Params, context: Array) -> Array:
        return call(module, params, context, method="encode_context")

    def apply(params: Params, tokens: Array, valid: Array) -> SelectorOutput:
        return call(module, params, tokens, valid, method="pick")

    return SelectorNetwork(init, encode_users, encode_context, apply)


class Affine(NamedTuple):
    """The parameters of x -> x @ kernel + bias; of a norm, scale and bias `[D]`."""

    kernel: Any  # [n, m]
    bias: Any  # [m]


class Projections(NamedTuple):
    """What attention makes of a token."""

    query: Affine
    key: Affine
    value: Affine


class PickLayers(NamedTuple):
    """What comes after them in a selector with one encoder layer, in order of use."""

    out: Affine
    attention_norm: Affine
    inner: Affine
    outer: Affine
    norm: Affine
    actor: Affine
    critic_hidden: Affine
    critic: Affine


def pick_layers(params: Params) -> tuple[Projections, PickLayers]:
    """The layers by name, for who computes `apply` by other means (one layer only)."""
    encoder = params["transformer"]["EncoderLayer_0"]
    attention = encoder["Attention_0"]
    first, second = encoder["LayerNorm_0"], encoder["LayerNorm_1"]

    def affine(parent: Params) -> Affine:
        layer = parent.get("Dense_0", parent)
        return Affine(layer["kernel"], layer["bias"])

    projections = Projections(
        query=affine(attention["query"]),
        key=affine(attention["key"]),
        value=affine(attention["value"]),
    )
    return projections, PickLayers(
        out=affine(attention["out"]),
        attention_norm=Affine(first["scale"], first["bias"]),
        inner=affine(encoder["Linear_0"]),
        outer=affine(encoder["Linear_1"]),
        norm=Affine(second["scale"], second["bias"]),
        actor=affine(params["actor"]),
        critic_hidden=affine(params["critic_hidden"]["Linear_0"]),
        critic=affine(params["critic"]),
    )
