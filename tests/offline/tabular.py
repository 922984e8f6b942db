"""Heads that are tables: a state is a number, its row is what a network would say."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from darlr_jax.networks.item_values import ItemNetwork, QuantileNetwork
from darlr_jax.offline import bcq, cql, crr, sqn
from darlr_jax.offline.objective import Batch

TABLE = ItemNetwork(
    init=None,
    apply=lambda table, state: table[state],
    item_value=lambda table, state, item: table[state, item],
)
QUANTILES = QuantileNetwork(
    init=None,
    values=lambda table, state: jnp.mean(table[state], axis=-1),
    quantiles=lambda table, state, item: table[state, item],
)

OBJECTIVES = {
    "sqn": sqn.OBJECTIVE,
    "bcq": bcq.OBJECTIVE,
    "cql": cql.OBJECTIVE,
    "crr": crr.OBJECTIVE,
}
HEADS = {
    "sqn": {"value": TABLE, "supervised": TABLE},
    "bcq": {"value": TABLE, "imitation": TABLE},
    "cql": {"value": QUANTILES},
    "crr": {"actor": TABLE, "critic": TABLE},
}


def batch(state, following, item, returns, discount) -> Batch:
    """A minibatch; both trackers see the same states."""
    state, following, item = (
        jnp.asarray(np.array(x), jnp.int32) for x in (state, following, item)
    )
    returns, discount = (
        jnp.asarray(np.array(x), jnp.float32) for x in (returns, discount)
    )
    return Batch(state, following, following, item, returns, discount)


def loss(name, params, old, data, config):
    """The objective's loss and metrics of tables."""
    return OBJECTIVES[name].loss(params, old, data, heads=HEADS[name], config=config)


def preferences(name, params, state, free, config):
    return OBJECTIVES[name].preferences(
        params, state, free, heads=HEADS[name], config=config
    )
