"""CQL(H) over quantile regression (Kumar et al. 2020; Dabney et al. 2018).

Q-learning that is pushed down on every action and up on the logged one.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jax import lax

from darlr_jax.config import OfflineConfig
from darlr_jax.networks.item_values import make_item_quantiles
from darlr_jax.offline.objective import (
    Batch,
    HeadParams,
    Heads,
    Objective,
    bootstrap,
    conservative_gap,
    value_of,
)
from darlr_jax.types import Array


def make_heads(
    hidden: tuple[int, ...], num_items: int, state_width: int, config: OfflineConfig
) -> Heads:
    """`value`: quantiles of the return."""
    head = make_item_quantiles(hidden, num_items, config.quantiles, state_width)
    return {"value": head}


def quantile_loss(predicted: Array, target: Array) -> Array:
    """Quantile Huber loss, sum over quantiles and mean over targets (QR-DQN, eq. 10).

    Args:
      predicted: `[..., n]` quantiles at the midpoints (i + 1/2) / n.
      target: `[..., m]` samples of the return, constant.

    Returns:
      `[...]`.
    """
    count = predicted.shape[-1]
    midpoints = (jnp.arange(count) + 0.5) / count
    error = target[..., None, :] - lax.stop_gradient(predicted[..., :, None])
    below = (error < 0).astype(predicted.dtype)
    weight = jnp.abs(midpoints.reshape((1,) * (error.ndim - 2) + (-1, 1)) - below)
    huber = optax.huber_loss(predicted[..., :, None], target[..., None, :])
    return jnp.sum(jnp.mean(weight * huber, axis=-1), axis=-1)


def loss(
    params: HeadParams,
    old: HeadParams,
    batch: Batch,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> tuple[Array, dict[str, Array]]:
    """Quantile regression of a double-Q target + w (logsumexp_a Q - Q(s, a_t)).

    The target's quantiles are those of Z'(s', argmax_a Q(s', a)).
    """
    head = heads["value"]
    best = jnp.argmax(head.values(params["value"], batch.following), axis=-1)
    target = bootstrap(batch, head.quantiles(old["value"], batch.old_following, best))
    predicted = head.quantiles(params["value"], batch.state, batch.item)
    value_loss = jnp.mean(quantile_loss(predicted, target))
    values = head.values(params["value"], batch.state)
    gap = jnp.mean(conservative_gap(values, batch.item))
    metrics = {
        "value": jnp.mean(value_of(values, batch.item)),
        "value_loss": value_loss,
        "conservative_gap": gap,
    }
    return value_loss + config.conservative_weight * gap, metrics


def preferences(
    params: HeadParams,
    state: Array,
    free: Array | None,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> Array:
    """Mean returns `[I]`."""
    del free, config
    return heads["value"].values(params["value"], state)


OBJECTIVE = Objective(make_heads, loss, preferences, samples=False)
