"""The published metrics of evaluation episodes (protocol 6)."""

from __future__ import annotations

import jax.numpy as jnp

from darlr_jax.types import Array, EpisodeMetrics, Trajectories


def episode_metrics(trajectories: Trajectories, dominated: Array) -> EpisodeMetrics:
    """All metrics of one mode.

    Args:
      trajectories: episodes `[T, B]`.
      dominated: `[G, I]`, the items of majority categories in each group; with several
        groups (Coat has one a feature) MCD is their mean.
    """
    episodes = trajectories.weights.shape[1]
    reward = jnp.sum(trajectories.rewards)
    steps = jnp.sum(trajectories.weights)
    num_items = dominated.shape[1]
    shown = jnp.zeros((num_items,)).at[trajectories.items].max(trajectories.weights)
    distinct = jnp.sum(shown)
    is_dominated = jnp.mean(
        dominated[:, trajectories.items].astype(jnp.float32), axis=0
    )
    majority = jnp.sum(is_dominated * trajectories.weights) / steps
    return EpisodeMetrics(
        R_tra=reward / episodes,
        len_tra=steps / episodes,
        R_each=reward / steps,
        CV=distinct / num_items,
        CV_turn=distinct / steps,
        MCD=majority if dominated.shape[0] else jnp.full((), jnp.nan),
    )
