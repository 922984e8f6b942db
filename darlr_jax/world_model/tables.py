"""A fitted ensemble -> the tables that policies are trained on (protocol 2.5)."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from darlr_jax.data.dataset import Dataset
from darlr_jax.networks.deepfm import WorldModelNetwork
from darlr_jax.types import Array, Params, WorldModelTables
from darlr_jax.world_model.ensemble import Ensemble, Sides

_CELLS_A_BLOCK = 1 << 18  # bounds the memory of a prediction block


def predict_tables(
    ensemble: Ensemble,
    dataset: Dataset,
    on_progress: Callable[[float], None] = lambda share: None,
) -> WorldModelTables:
    """Predicts every environment cell, in blocks of users, and embeds both sides.

    Args:
      ensemble: the fitted members.
      dataset: whose environment's users and items are predicted.
      on_progress: called with the share of users that is done, after every block.

    Returns:
      NumPy arrays: `prediction` is the mean of the members' means, `variance` the
      largest variance of a member; nothing is clipped or normalised. Embeddings are
      those of member 0, as published.
    """
    block = functools.partial(_predict_block, network=ensemble.network)
    predict = jax.jit(block)
    users, items = dataset.environment_users, dataset.environment_items
    rows = max(1, min(len(users), _CELLS_A_BLOCK // len(items)))
    prediction = np.empty((len(users), len(items)), np.float32)
    variance = np.empty_like(prediction)
    for start in range(0, len(users), rows):
        # A last block that overlaps the one before spares a second compilation.
        start = min(start, len(users) - rows)
        stop = start + rows
        mean, spread = predict(
            ensemble.params, users[start:stop], items, ensemble.sides
        )
        prediction[start:stop], variance[start:stop] = mean, spread
        on_progress(stop / len(users))
    first = jax.tree.map(lambda leaf: leaf[0], ensemble.params)
    network, sides = ensemble.network, ensemble.sides
    return WorldModelTables(
        prediction=prediction,
        variance=variance,
        item_vectors=np.asarray(network.embed_items(first, items, sides.item)),
        user_vectors=np.asarray(network.embed_users(first, users, sides.user)),
    )


def _predict_block(
    params: Params,
    users: Array,
    items: Array,
    sides: Sides,
    *,
    network: WorldModelNetwork,
) -> tuple[Array, Array]:
    """Mean and largest variance `[rows, I]` of users `[rows]` x items `[I]`.

    One user at a time: what lies between the layers then fits into a cache.
    """
    apply = jax.vmap(network.apply, in_axes=(0, None, None, None, None))

    def predict_row(user: Array) -> tuple[Array, Array]:
        member = apply(params, user[None], items, *sides)
        return jnp.mean(member.mean, 0), jnp.exp(jnp.max(member.log_variance, 0))

    return jax.lax.map(predict_row, users)
