"""Picks in two steps: a cluster of users, then a user of it (ours).

With n_g the users of cluster g that are still free, and k_g the mean of all its keys,

    pi(g) ~ n_g exp(q . k_g)        pi(u | g) ~ exp(q . k_u), u free

and log pi(u) = log pi(g) + log pi(u | g). Where the keys of a cluster are equal this is
the softmax over all users, and so it is with one cluster, or with one user in each. A
pick reads G + S keys instead of U: least where both are about the square root of U.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from darlr_jax.agents import categorical
from darlr_jax.agents.dot_product import EXACT, Evaluation, last_turns
from darlr_jax.types import Array, Clusters


class Keys(NamedTuple):
    """Keys of the users, cluster by cluster."""

    members: Array  # [G, S, D], 0 where a cluster is short
    means: Array  # [G, D]


class Offer(NamedTuple):
    """What picks are drawn from."""

    keys: Keys
    users: Array  # [G, S]


class Left(NamedTuple):
    """Who may still be picked."""

    free: Array  # [G, S] bool
    remaining: Array  # [G] int32, free users of each cluster


def arrange(keys: Array, clusters: Clusters) -> Keys:
    """Keys `[U, D]` cluster by cluster, once for all picks under one set of parameters.

    Users of one cluster then lie side by side, which is what reading them costs.
    """
    real = clusters.members >= 0
    members = jnp.where(real[..., None], keys[clusters.members], 0.0)
    size = jnp.sum(real, axis=1)
    return Keys(members, jnp.sum(members, axis=1) / size[:, None])


def open_all(user: Array, keys: Keys, clusters: Clusters) -> tuple[Offer, Left]:
    """Everybody but `user`. _Unbatched_."""
    group, place = _position(clusters.slot[user], clusters)
    free = (clusters.members >= 0).at[group, place].set(False)
    left = Left(free, jnp.sum(free, axis=1, dtype=jnp.int32))
    return Offer(keys, clusters.members), left


def draw(uniform: Array, query: Array, offer: Offer, left: Left) -> tuple[Array, Left]:
    """Picks a free user. _Unbatched_.

    Args:
      uniform: `[2]` in [0, 1), one for each step.
      query: `[D]`.
      offer: keys and users.
      left: who is free; at least one is.

    Returns:
      The user `[]` and who is left.
    """
    product = functools.partial(jnp.matmul, precision=EXACT)
    logits = _cluster_logits(product(offer.keys.means, query), left.remaining)
    group = categorical.sample(uniform[0], logits, left.remaining > 0)
    free = left.free[group]
    logits = product(offer.keys.members[group], query)
    place = categorical.sample(uniform[1], logits, free)
    following = Left(
        left.free.at[group, place].set(False), left.remaining.at[group].add(-1)
    )
    return offer.users[group, place], following


def evaluate(
    query: Array, keys: Keys, user: Array, picked: Array, clusters: Clusters
) -> Evaluation:
    """Log-probabilities and entropies of stored picks, differentiable.

    The entropy of a pick, H(g) + sum_g pi(g) H(u | g), would need the keys of all
    users. In place of the sum stands its term of the cluster that was drawn: over picks
    of this policy, both its mean and that of its gradient are those of the entropy. For
    the gradient's sake it has a term of value zero, H(u | g) - log S times the gradient
    of log pi(g); log S, about what H(u | g) is, keeps it small.

    Args:
      query: `[M, K, D]` of each pick.
      keys: from `arrange`.
      user: `[M]` the current users.
      picked: `[M, K]`.
      clusters: the partition.
    """
    slot = clusters.slot[jnp.concatenate([user[:, None], picked], axis=1)]
    group, place = _position(slot, clusters)
    of_clusters = _cluster_log_probs(query, keys, group[:, :-1], clusters)
    of_users = _user_log_probs(query, keys, slot, clusters)
    cluster = categorical.log_prob(of_clusters, group[:, 1:])
    log_prob = cluster + categorical.log_prob(of_users, place[:, 1:])
    within = categorical.entropy(of_users)
    surplus = jax.lax.stop_gradient(within) - math.log(of_users.shape[-1])
    score = cluster - jax.lax.stop_gradient(cluster)  # 0, with a gradient
    entropy = categorical.entropy(of_clusters) + within + surplus * score
    return Evaluation(log_prob, entropy)


def _position(slot: Array, clusters: Clusters) -> tuple[Array, Array]:
    """Cluster and place within it of a slot."""
    return jnp.divmod(slot, clusters.members.shape[1])


def _cluster_logits(products: Array, count: Array) -> Array:
    """Logits of clusters from products of query and mean key, and free users.

    The count makes up for clusters that are short, or of which much has been picked.
    """
    return products + jnp.log(jnp.maximum(count, 1).astype(jnp.float32))


def _cluster_log_probs(
    query: Array, keys: Keys, before: Array, clusters: Clusters
) -> Array:
    """Log-probabilities `[M, K, G]`; `before` is the cluster of who left before."""
    num_clusters = clusters.members.shape[0]
    size = jnp.sum(clusters.members >= 0, axis=1)
    left = jax.nn.one_hot(before, num_clusters, dtype=jnp.int32)
    count = size[None, None, :] - jnp.cumsum(left, axis=1)
    products = jnp.matmul(query, keys.means.T, precision=EXACT)
    logits = _cluster_logits(products, count)
    return categorical.masked_log_softmax(logits, count > 0)


def _user_log_probs(query: Array, keys: Keys, slot: Array, clusters: Clusters) -> Array:
    """Log-probabilities `[M, K, S]` of the users in the cluster of each pick.

    `slot` `[M, 1 + K]` is that of the current user, then those of the picks.
    """
    num_clusters, size = clusters.members.shape
    rows, choice = jnp.arange(slot.shape[0]), jnp.arange(slot.shape[1] - 1)
    turn = last_turns(slot[:, 1:], num_clusters * size)
    turn = turn.at[rows, slot[:, 0]].set(-1).reshape(-1, num_clusters, size)
    group = slot[:, 1:] // size
    free = turn[rows[:, None], group] >= choice[None, :, None]
    free &= clusters.members[group] >= 0
    members = keys.members[group]
    logits = jnp.einsum("mkd,mksd->mks", query, members, precision=EXACT)
    return categorical.masked_log_softmax(logits, free)
