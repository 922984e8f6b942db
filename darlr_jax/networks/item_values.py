"""Heads of the offline learners: a state -> one number an item, or its distribution.

Either can be asked for all actions or, at a fraction of the cost, for one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.networks.base import MLP, call, symmetric_uniform
from darlr_jax.types import Array, Key, Params


class ItemQuantiles(nn.Module):
    """Quantiles of the return of every action (Dabney et al. 2018, QR-DQN).

    The last layer is linear, so the mean over an action's quantiles is one product with
    the mean of its weights: the values of all actions cost no more than without
    quantiles, and these are computed for the chosen actions alone.
    """

    hidden: tuple[int, ...]
    num_items: int
    quantiles: int
    state_width: int

    def setup(self) -> None:
        """Declares the trunk and the last layer, one matrix an action."""
        width = self.hidden[-1] if self.hidden else self.state_width
        initial = symmetric_uniform(width)
        self.trunk = MLP(self.hidden)
        self.kernel = self.param(
            "kernel", initial, (self.num_items, width, self.quantiles)
        )
        self.bias = self.param("bias", initial, (self.num_items, self.quantiles))

    def values(self, state: Array) -> Array:
        """Maps a state `[..., D]` to the mean return of every action `[..., I]`."""
        weights, offset = jnp.mean(self.kernel, axis=-1), jnp.mean(self.bias, axis=-1)
        values = self.trunk(state) @ weights.T
        return values + offset.reshape((1,) * (values.ndim - 1) + (-1,))

    def quantiles_of(self, state: Array, item: Array) -> Array:
        """Maps a state `[..., D]` and an action `[...]` to quantiles `[..., n]`."""
        hidden = self.trunk(state)[..., None, :]
        return (hidden @ self.kernel[item])[..., 0, :] + self.bias[item]


class QuantileNetwork(NamedTuple):
    """`ItemQuantiles` as pure functions."""

    init: Any  # (key) -> params
    values: Any  # (params, state [..., D]) -> [..., I]
    quantiles: Any  # (params, state [..., D], item [...]) -> [..., n]


def make_item_quantiles(
    hidden: tuple[int, ...], num_items: int, quantiles: int, state_width: int
) -> QuantileNetwork:
    """The distributional head of I actions with n quantiles each."""
    module = ItemQuantiles(hidden, num_items, quantiles, state_width)

    def init(key: Key) -> Params:
        state = jnp.zeros((state_width,))
        return module.init(key, state, method="values")["params"]

    def values(params: Params, state: Array) -> Array:
        return call(module, params, state, method="values")

    def quantiles_of(params: Params, state: Array, item: Array) -> Array:
        return call(module, params, state, item, method="quantiles_of")

    return QuantileNetwork(init, values, quantiles_of)


class ItemNetwork(NamedTuple):
    """Values of actions, or logits over them; without hidden layers they are linear."""

    init: Any  # (key) -> params
    apply: Any  # (params, state [..., D]) -> [..., I]
    item_value: Any  # (params, state [..., D], item [...]) -> [...]


def make_item_values(
    hidden: tuple[int, ...], num_items: int, state_width: int
) -> ItemNetwork:
    """The head of I actions with one number each: their only quantile."""
    network = make_item_quantiles(hidden, num_items, 1, state_width)

    def item_value(params: Params, state: Array, item: Array) -> Array:
        return network.quantiles(params, state, item)[..., 0]

    return ItemNetwork(network.init, network.values, item_value)
