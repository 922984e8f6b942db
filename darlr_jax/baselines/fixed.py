"""Floor and ceiling: policies without anything to learn; an epoch evaluates only.

The `oracle` recommends what truly pays most at once. It is the best policy where nobody
leaves early (Coat, Yahoo! R3); where an exit rule is at work it is greedy and no upper
bound: a policy that is paid less for an item but keeps the user can do better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from darlr_jax.agents import categorical
from darlr_jax.config import ExperimentConfig
from darlr_jax.data import statistics
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    Learner,
    Observation,
    Policy,
    RewardScale,
)


class FixedState(struct.PyTreeNode):
    """A run between two epochs: nothing but counters."""

    evaluation_key: Key  # constant
    epoch: Array  # [] int32
    env_steps: Array  # [] int32, always 0


def build_random(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, np.ndarray]:
    """Every allowed item with the same probability; the table holds equal logits."""
    del world_model
    return _learner(config, draw), np.zeros(dataset.num_items, np.float32)


def build_other_tags(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, np.ndarray]:
    """Any allowed item that shares no tag with the one before; the tags `[I, C]`.

    What staying alone is worth: it knows whom tags lose, and no reward.

    Raises:
      DataError: the items have no tags.
    """
    del world_model
    if not dataset.item_tags.shape[1]:
        raise DataError(
            f"method=random_other_tags: items of {dataset.name} have no tags; "
            "method=random is the same without"
        )
    return _learner(config, draw_other_tags), dataset.item_tags.astype(np.float32)


def build_popularity(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, np.ndarray]:
    """The allowed item `[I]` that most logged users met, ties by the lower id."""
    del world_model
    return _learner(config, most_popular), statistics.item_popularity(dataset)


def build_oracle(
    dataset: Dataset, world_model: Any, config: ExperimentConfig
) -> tuple[Learner, np.ndarray]:
    """The allowed item that pays the user most, by the true matrix `[U, I]` itself."""
    del world_model
    return _learner(config, best_paid), dataset.true_reward


def _learner(config: ExperimentConfig, act: Callable[..., Array]) -> Learner:
    return Learner(
        config=config,
        init=init_state,
        train_epoch=count_epoch,
        policy=Policy(act),
        policy_params=lambda state, table: table,
    )


def init_state(key: Key, table: Array) -> FixedState:
    """A fresh run of one seed; the key is consumed.

    Split as that of A2C, so that a seed is evaluated on the same users.
    """
    del table
    evaluation_key = jax.random.split(key, 4)[3]
    zero = jnp.zeros((), jnp.int32)
    return FixedState(evaluation_key=evaluation_key, epoch=zero, env_steps=zero)


def count_epoch(
    state: FixedState, table: Array, coefficients: Coefficients
) -> tuple[FixedState, dict[str, Array]]:
    """An epoch in which nothing is learned."""
    del table, coefficients
    return state.replace(epoch=state.epoch + 1), {}


def draw(
    logits: Array,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
) -> Array:
    """An item `[]` drawn by logits `[I]`. _Unbatched_; the key is consumed."""
    del user, observation, scale
    mask = categorical.allowed(used)
    return categorical.sample(jax.random.uniform(key), logits, mask)


def draw_other_tags(
    tags: Array,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
) -> Array:
    """An item `[]` without a tag of the one before, of tags `[I, C]`. _Unbatched_.

    Where every allowed item shares one, any allowed item; the key is consumed.
    """
    # The start token is one behind the items: it has no tags.
    before = tags.at[observation.items[0]].get(mode="fill", fill_value=0.0)
    barred = tags @ before > 0
    if used is not None:
        barred = jnp.where(jnp.all(barred | used), used, barred | used)
    else:
        barred = barred & ~jnp.all(barred)
    return draw(jnp.zeros(len(tags)), key, user, observation, barred, scale)


def most_popular(
    popularity: Array,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
) -> Array:
    """The best item `[]` by scores `[I]` that all users share. _Unbatched_."""
    del key, user, observation, scale
    return best_allowed(popularity, used)


def best_paid(
    reward: Array,
    key: Key,
    user: Array,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
) -> Array:
    """The best item `[]` by the user's own row of `[U, I]`. _Unbatched_."""
    del key, observation, scale
    return best_allowed(reward[user], used)


def best_allowed(scores: Array, used: Array | None) -> Array:
    """The item `[]` of the highest score `[I]` among those that are not used."""
    if used is not None:
        scores = jnp.where(used, -jnp.inf, scores)
    return jnp.argmax(scores)
