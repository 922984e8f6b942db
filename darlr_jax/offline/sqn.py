"""SQN: self-supervised Q-learning (Xin et al., SIGIR 2020).

One encoder, two heads: the one learns to predict the logged item, the other its return;
the Q head shapes the encoder, the supervised head recommends. The published
implementation acts by the Q head, of values that nothing holds down where the log is
silent (docs/deviations.md).
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from darlr_jax.agents import categorical
from darlr_jax.config import OfflineConfig
from darlr_jax.networks.item_values import make_item_values
from darlr_jax.offline.objective import (
    Batch,
    HeadParams,
    Heads,
    Objective,
    bootstrap,
)
from darlr_jax.types import Array


def make_heads(
    hidden: tuple[int, ...], num_items: int, state_width: int, config: OfflineConfig
) -> Heads:
    """`value` Q and `supervised` logits."""
    del config
    head = make_item_values(hidden, num_items, state_width)
    return {"value": head, "supervised": head}


def loss(
    params: HeadParams,
    old: HeadParams,
    batch: Batch,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> tuple[Array, dict[str, Array]]:
    """L_s + L_q: cross-entropy of the logged item, and Huber of a double-Q target.

    y = G + gamma^n Q'(s', argmax_a Q(s', a)).
    """
    del config
    value = heads["value"]
    best = jnp.argmax(value.apply(params["value"], batch.following), axis=-1)
    following = value.item_value(old["value"], batch.old_following, best)
    target = bootstrap(batch, following)
    predicted = value.item_value(params["value"], batch.state, batch.item)
    value_loss = jnp.mean(optax.huber_loss(predicted, target))
    logits = heads["supervised"].apply(params["supervised"], batch.state)
    log_probs = categorical.masked_log_softmax(logits, None)
    supervised_loss = -jnp.mean(categorical.log_prob(log_probs, batch.item))
    metrics = {
        "value": jnp.mean(predicted),
        "value_loss": value_loss,
        "imitation_loss": supervised_loss,
    }
    return supervised_loss + value_loss, metrics


def preferences(
    params: HeadParams,
    state: Array,
    free: Array | None,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> Array:
    """The supervised head's logits `[I]`."""
    del free, config
    return heads["supervised"].apply(params["supervised"], state)


OBJECTIVE = Objective(make_heads, loss, preferences, samples=False)
