"""The published metrics of evaluation episodes (protocol 6), and a few more."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from darlr_jax.types import (
    UNVISITED,
    Array,
    EnvParams,
    EpisodeMetrics,
    ItemFacts,
    Trajectories,
)

ACTIVITY_GROUPS = ("light", "medium", "heavy")  # thirds of the users by logged rows


def episode_metrics(
    trajectories: Trajectories, groups: Array, facts: ItemFacts, env: EnvParams
) -> EpisodeMetrics:
    """All metrics of one mode.

    Args:
      trajectories: episodes `[T, B]`.
      groups: `[B]` int32, the activity group of each episode's user.
      facts: what is known of the items; with several groups of categories (Coat has one
        a feature) MCD is their mean.
      env: tags and distances of the items, for their similarity.
    """
    reward = jnp.sum(trajectories.rewards)
    steps = jnp.sum(trajectories.weights)
    episodes = trajectories.weights.shape[1]
    counts = _shown(trajectories, jnp.ones((episodes,)), facts)
    distinct = jnp.sum(counts > 0)
    in_group = groups[None, :] == jnp.arange(len(ACTIVITY_GROUPS))[:, None]
    by_group = jax.vmap(_shown, (None, 0, None))(trajectories, in_group, facts)
    coverage = jnp.mean(by_group > 0, axis=1)
    return EpisodeMetrics(
        R_tra=reward / episodes,
        len_tra=steps / episodes,
        R_each=reward / steps,
        CV=distinct / counts.shape[0],
        CV_turn=distinct / steps,
        MCD=_majority_share(counts, facts),
        Diversity=jnp.mean(jax.vmap(_diversity, (1, None))(trajectories, env)),
        Novelty=-counts @ jnp.log(facts.popularity) / steps,
        Gini=_gini(counts),
        CV_light=coverage[0],
        CV_medium=coverage[1],
        CV_heavy=coverage[2],
    )


def _shown(trajectories: Trajectories, chosen: Array, facts: ItemFacts) -> Array:
    """How often each item `[I]` was recommended in the `chosen [B]` episodes."""
    counts = jnp.zeros(facts.popularity.shape)
    return counts.at[trajectories.items].add(trajectories.weights * chosen[None, :])


def _majority_share(counts: Array, facts: ItemFacts) -> Array:
    """Share of recommendations from majority categories, mean over their groups."""
    if not facts.dominated.shape[0]:
        return jnp.full((), jnp.nan)
    return jnp.mean(facts.dominated @ counts) / jnp.sum(counts)


def _diversity(episode: Trajectories, env: EnvParams) -> Array:
    """Mean of 1 - similarity over the pairs of one episode; 1 without any (protocol 6).

    Similarity is 1 / (1 + distance) where users look at distances, the Jaccard index of
    the tags elsewhere; not a number for items without tags.
    """
    if env.item_distance.shape[0]:
        distance = env.item_distance[episode.items[:, None], episode.items[None, :]]
        similarity = 1.0 / (1.0 + distance)
    elif env.item_tags.shape[1]:
        tags = env.item_tags[episode.items]
        common, size = tags @ tags.T, jnp.sum(tags, axis=1)
        union = size[:, None] + size[None, :] - common
        similarity = common / jnp.maximum(union, 1.0)
    else:
        return jnp.full((), jnp.nan)
    pairs = jnp.triu(episode.weights[:, None] * episode.weights[None, :], k=1)
    number = jnp.sum(pairs)
    mean = jnp.sum(pairs * (1.0 - similarity)) / jnp.maximum(number, 1.0)
    return jnp.where(number > 0, mean, 1.0)


def _gini(counts: Array) -> Array:
    """Inequality of the items' shares of the recommendations: 0 is equal."""
    size = counts.shape[0]
    rank = jnp.arange(1, size + 1)
    weighted = jnp.sort(counts) @ rank.astype(jnp.float32)
    return 2.0 * weighted / (size * jnp.sum(counts)) - (size + 1) / size


def visited_error(estimates: Array, true_reward: Array) -> Array:
    """Mean absolute error of the last estimates `[U, I]` of visited cells; analysis.

    0 where nothing has been visited. It tells something where estimates are made in
    the unit of the true reward; on KuaiRec the world model's own are not.
    """
    visited = estimates != UNVISITED
    error = jnp.where(visited, jnp.abs(estimates - true_reward), 0.0)
    return jnp.sum(error) / jnp.maximum(jnp.sum(visited), 1)
