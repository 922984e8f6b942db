"""What SQN, BCQ, CQL and CRR share: the border of an objective, and its targets.

An objective is a row of functions over named heads. States come from one tracker, which
the training step applies; a loss sees states, never histories.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.config import OfflineConfig
from darlr_jax.types import Array, Key, Params

Heads = Mapping[str, Any]  # name -> `ItemNetwork` or `QuantileNetwork`
HeadParams = dict[str, Params]  # name -> its parameters


class Batch(NamedTuple):
    """A minibatch in terms of states."""

    state: Array  # [M, D] in which the items were shown
    following: Array  # [M, D] n rows later
    old_following: Array  # [M, D] the same seen by the target tracker
    item: Array  # [M]
    returns: Array  # [M] G of the n rows
    discount: Array  # [M] gamma^n, 0 where the session ended


class Loss(Protocol):
    """What is minimised, and terms of it worth looking at."""

    def __call__(
        self,
        params: HeadParams,
        old: HeadParams,
        batch: Batch,
        *,
        heads: Heads,
        config: OfflineConfig,
    ) -> tuple[Array, dict[str, Array]]:
        """The mean over the minibatch; `old` are the target network's parameters."""


class Preferences(Protocol):
    """How much each action is wanted."""

    def __call__(
        self,
        params: HeadParams,
        state: Array,
        free: Array | None,
        *,
        heads: Heads,
        config: OfflineConfig,
    ) -> Array:
        """`[I]` of a state `[D]`; `free [I]` are the actions to choose from."""


class MakeHeads(Protocol):
    """The networks that are trained beside the tracker."""

    def __call__(
        self,
        hidden: tuple[int, ...],
        num_items: int,
        state_width: int,
        config: OfflineConfig,
    ) -> Heads:
        """Heads over I items from states of `state_width` entries."""


class Objective(NamedTuple):
    """One method: its heads, its loss, and how it acts."""

    make_heads: MakeHeads
    loss: Loss
    preferences: Preferences
    samples: bool  # draws from the softmax of its preferences, or takes the largest


def init_heads(key: Key, heads: Heads) -> HeadParams:
    """Fresh parameters; the key is consumed."""
    keys = jax.random.split(key, len(heads))
    return {name: heads[name].init(k) for name, k in zip(heads, keys, strict=True)}


def value_of(values: Array, item: Array) -> Array:
    """The entry of `values [..., I]` at `item [...]`."""
    return jnp.take_along_axis(values, item[..., None], axis=-1)[..., 0]


def bootstrap(batch: Batch, value: Array) -> Array:
    """The target G + gamma^n V(n rows later), a constant: `[M]`, quantiles `[M, n]`."""
    shape = (-1,) + (1,) * (value.ndim - 1)
    returns, discount = batch.returns.reshape(shape), batch.discount.reshape(shape)
    return lax.stop_gradient(returns + discount * value)


def conservative_gap(values: Array, item: Array) -> Array:
    """logsumexp_a Q(s, a) - Q(s, a_t) (Kumar et al. 2020, CQL(H)): `[...]`."""
    return jax.nn.logsumexp(values, axis=-1) - value_of(values, item)
