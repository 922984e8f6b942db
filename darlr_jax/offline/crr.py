"""Critic-regularised regression (Wang et al. 2020, CRR exp).

Imitation of the log, each action weighted by how much better than the policy's average
the critic thinks it is.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.agents import categorical
from darlr_jax.config import OfflineConfig
from darlr_jax.networks.item_values import make_item_values
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
    """`actor` logits and `critic` Q."""
    del config
    head = make_item_values(hidden, num_items, state_width)
    return {"actor": head, "critic": head}


def expected_value(values: Array, logits: Array) -> Array:
    """V(s) = sum_a pi(a|s) Q(s, a): `[...]` of `[..., I]`."""
    return jnp.sum(jax.nn.softmax(logits) * values, axis=-1)


def action_weight(
    values: Array, logits: Array, item: Array, config: OfflineConfig
) -> Array:
    """min(exp(A / beta), cap), A = Q(s, a_t) - V(s): `[...]`, a constant."""
    advantage = value_of(values, item) - expected_value(values, logits)
    weight = jnp.exp(advantage / config.temperature)
    return lax.stop_gradient(jnp.minimum(weight, config.weight_cap))


def loss(
    params: HeadParams,
    old: HeadParams,
    batch: Batch,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> tuple[Array, dict[str, Array]]:
    """-mean(w log pi(a_t|s)) + half the squared error of Q + the conservative term.

    y = G + gamma^n V'(s'), V' of the target's actor and critic.
    """
    actor, critic = heads["actor"].apply, heads["critic"].apply
    old_values = critic(old["critic"], batch.old_following)
    old_logits = actor(old["actor"], batch.old_following)
    target = bootstrap(batch, expected_value(old_values, old_logits))
    values = critic(params["critic"], batch.state)
    predicted = value_of(values, batch.item)
    value_loss = 0.5 * jnp.mean((target - predicted) ** 2)
    logits = actor(params["actor"], batch.state)
    weight = action_weight(values, logits, batch.item, config)
    log_probs = categorical.masked_log_softmax(logits, None)
    log_prob = categorical.log_prob(log_probs, batch.item)
    policy_loss = -jnp.mean(weight * log_prob)
    gap = jnp.mean(conservative_gap(values, batch.item))
    metrics = {
        "value": jnp.mean(predicted),
        "value_loss": value_loss,
        "imitation_loss": -jnp.mean(log_prob),
        "policy_loss": policy_loss,
        "policy_entropy": jnp.mean(categorical.entropy(log_probs)),
        "conservative_gap": gap,
        "action_weight": jnp.mean(weight),
        "capped_share": jnp.mean(weight >= config.weight_cap),
    }
    return policy_loss + value_loss + config.conservative_weight * gap, metrics


def preferences(
    params: HeadParams,
    state: Array,
    free: Array | None,
    *,
    heads: Heads,
    config: OfflineConfig,
) -> Array:
    """The actor's logits `[I]`."""
    del free, config
    return heads["actor"].apply(params["actor"], state)


OBJECTIVE = Objective(make_heads, loss, preferences, samples=True)
