"""Whom a pick may choose, and with what probability: `selector.pool`.

    all       everybody else, by one softmax (the paper)
    nearest   the users most similar to the current one, by one softmax (ours)
    clusters  everybody else, by a softmax over clusters and one within (ours)

With 27,285 users the first costs a product of each pick's query with as many keys; the
others cost as many as a pool has users, or as there are clusters and users in one. The
log-probabilities are exact for each of them: what changes is the policy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from darlr_jax.agents import categorical, clusters, dot_product
from darlr_jax.agents.dot_product import Evaluation
from darlr_jax.config import SelectorConfig
from darlr_jax.types import Array, UserTables


class Pool(NamedTuple):
    """Four pure functions. What they hand to each other is their own affair.

    `offer` is what the picks of one recommendation are drawn from, `left` what is left
    of it after some of them: users are drawn without replacement.
    """

    # (keys [U, D], users: UserTables) -> keys, as the others want them
    arrange: Callable[..., Any]
    # (user [], keys, users) -> (offer, left), without the current user
    open: Callable[..., tuple[Any, Any]]
    # (uniform, query [D], offer, left) -> (picked user [], left)
    draw: Callable[..., tuple[Array, Any]]
    # (query [M, K, D], keys, user [M], picked [M, K], users, config) -> Evaluation
    evaluate: Callable[..., Evaluation]
    uniforms: tuple[int, ...]  # shape of the uniform numbers of a pick


def pool_of(config: SelectorConfig) -> Pool:
    """The pool that `config.pool` names."""
    return _POOLS[config.pool]


def _as_they_are(keys: Array, users: UserTables) -> Array:
    del users
    return keys


# --- everybody else -------------------------------------------------------------------


def _open_all(user: Array, keys: Array, users: UserTables) -> tuple[Array, Array]:
    del users
    return keys, jnp.ones(keys.shape[:1], bool).at[user].set(False)


def _draw_from_all(
    uniform: Array, query: Array, keys: Array, free: Array
) -> tuple[Array, Array]:
    logits = jnp.matmul(keys, query, precision=dot_product.EXACT)
    picked = categorical.sample(uniform, logits, free)
    return picked, free.at[picked].set(False)


def _evaluate_all(
    query: Array,
    keys: Array,
    user: Array,
    picked: Array,
    users: UserTables,
    config: SelectorConfig,
) -> Evaluation:
    del users
    turn = dot_product.last_turns(picked, keys.shape[0])
    turn = turn.at[jnp.arange(turn.shape[0]), user].set(-1)
    return dot_product.evaluate(query, keys, turn, picked, **_options(config))


# --- the most similar -----------------------------------------------------------------


class _Nearest(NamedTuple):
    """The C users most similar to the current one."""

    keys: Array  # [C, D]
    users: Array  # [C]


def _open_nearest(user: Array, keys: Array, users: UserTables) -> tuple:
    candidates = users.pool[user]
    return _Nearest(keys[candidates], candidates), jnp.ones(candidates.shape, bool)


def _draw_from_nearest(
    uniform: Array, query: Array, offer: _Nearest, free: Array
) -> tuple[Array, Array]:
    logits = jnp.matmul(offer.keys, query, precision=dot_product.EXACT)
    slot = categorical.sample(uniform, logits, free)
    return offer.users[slot], free.at[slot].set(False)


def _evaluate_nearest(
    query: Array,
    keys: Array,
    user: Array,
    picked: Array,
    users: UserTables,
    config: SelectorConfig,
) -> Evaluation:
    candidates = users.pool[user]  # [M, C]
    size = candidates.shape[1]
    found = picked[:, :, None] == candidates[:, None, :]
    slot = jnp.sum(jnp.where(found, jnp.arange(size), 0), axis=-1)
    turn = dot_product.last_turns(slot, size)
    offered = keys[candidates]
    return dot_product.evaluate_each(query, offered, turn, slot, **_options(config))


# --- a cluster, then a user -----------------------------------------------------------


def _arrange_clusters(keys: Array, users: UserTables) -> clusters.Keys:
    return clusters.arrange(keys, users.pool)


def _open_clusters(user: Array, keys: clusters.Keys, users: UserTables) -> tuple:
    return clusters.open_all(user, keys, users.pool)


def _evaluate_clusters(
    query: Array,
    keys: clusters.Keys,
    user: Array,
    picked: Array,
    users: UserTables,
    config: SelectorConfig,
) -> Evaluation:
    found = clusters.evaluate(query, keys, user, picked, users.pool)
    if config.entropy_weight > 0:
        return found
    return found._replace(entropy=jax.lax.stop_gradient(found.entropy))


def _options(config: SelectorConfig) -> dict[str, Any]:
    return {"block": config.user_block, "entropy_gradient": config.entropy_weight > 0}


_POOLS = {
    "all": Pool(_as_they_are, _open_all, _draw_from_all, _evaluate_all, ()),
    "nearest": Pool(
        _as_they_are, _open_nearest, _draw_from_nearest, _evaluate_nearest, ()
    ),
    "clusters": Pool(
        _arrange_clusters, _open_clusters, clusters.draw, _evaluate_clusters, (2,)
    ),
}
