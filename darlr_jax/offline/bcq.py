"""Discrete BCQ (Fujimoto et al. 2019, "Benchmarking batch deep RL algorithms").

The best action among those that the log's policy would take: an imitation G of it is
learned beside Q, and an action is considered where G(a|s) / max G reaches a threshold.
"""

from __future__ import annotations

import math

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
    """`value` Q and `imitation` logits, raw numbers both."""
    del config
    head = make_item_values(hidden, num_items, state_width)
    return {"value": head, "imitation": head}


def supported_values(
    values: Array, logits: Array, free: Array | None, config: OfflineConfig
) -> Array:
    """Q `[..., I]`, and -inf for actions that the log's policy hardly takes.

    The most likely action is always supported. Used actions are left out before the
    comparison, so that the most likely of the others is.
    """
    log_probs = categorical.masked_log_softmax(logits, free)
    highest = jnp.max(log_probs, axis=-1, keepdims=True)
    likely = log_probs - highest >= math.log(config.imitation_threshold)
    return jnp.where(likely, values, -jnp.inf)


def loss(
    params: HeadParams,
    old: HeadParams,
    batch: Batch,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> tuple[Array, dict[str, Array]]:
    """Huber of the supported double-Q target, imitation, and a penalty on its logits.

    y = G + gamma^n Q'(s', argmax over supported a of Q(s', a)).
    """
    value, imitation = heads["value"], heads["imitation"].apply
    candidates = supported_values(
        value.apply(params["value"], batch.following),
        imitation(params["imitation"], batch.following),
        None,
        config,
    )
    best = jnp.argmax(candidates, axis=-1)
    following = value.item_value(old["value"], batch.old_following, best)
    target = bootstrap(batch, following)
    predicted = value.item_value(params["value"], batch.state, batch.item)
    value_loss = jnp.mean(optax.huber_loss(predicted, target))
    logits = imitation(params["imitation"], batch.state)
    log_probs = categorical.masked_log_softmax(logits, None)
    imitation_loss = -jnp.mean(categorical.log_prob(log_probs, batch.item))
    penalty = config.logit_penalty * jnp.mean(logits**2)
    metrics = {
        "value": jnp.mean(predicted),
        "value_loss": value_loss,
        "imitation_loss": imitation_loss,
        "supported_items": jnp.mean(jnp.sum(jnp.isfinite(candidates), axis=-1)),
    }
    return value_loss + imitation_loss + penalty, metrics


def preferences(
    params: HeadParams,
    state: Array,
    free: Array | None,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> Array:
    """Q of the supported actions `[I]`, -inf for the others."""
    values = heads["value"].apply(params["value"], state)
    logits = heads["imitation"].apply(params["imitation"], state)
    return supported_values(values, logits, free, config)


OBJECTIVE = Objective(make_heads, loss, preferences, samples=False)
