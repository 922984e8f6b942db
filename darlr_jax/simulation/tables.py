"""Data set + world model -> the arrays that policy training runs on.

Here, and only here, a method's choice of estimate and uncertainty becomes a table.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from darlr_jax.config import ConfigError, ExperimentConfig, RewardConfig, SelectorConfig
from darlr_jax.data import statistics
from darlr_jax.data.clusters import balanced_clusters
from darlr_jax.data.dataset import Dataset
from darlr_jax.types import (
    EnvParams,
    RewardTables,
    SimulationTables,
    UserTables,
    WorldModelTables,
)


def build_tables(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> SimulationTables:
    """Every array of policy training, as NumPy arrays.

    Raises:
      ConfigError: more reference users or neighbours asked for than there are others.
    """
    check_sizes(dataset, config)
    return SimulationTables(
        env=environment_params(dataset, config),
        rewards=reward_tables(dataset, world_model, config),
        users=user_tables(dataset, world_model, config),
        item_vectors=world_model.item_vectors,
        exposure_distance=exposure_distance(dataset, world_model, config),
    )


def environment_params(dataset: Dataset, config: ExperimentConfig) -> EnvParams:
    """What users react to: tags and distances of items (protocol 3.4)."""
    by_distance = config.environment.exit_rule == "distance"
    distance = (
        statistics.item_distances(dataset.true_reward)
        if by_distance
        else np.zeros((0, 0), np.float32)
    )
    return EnvParams(
        item_tags=dataset.item_tags.astype(np.float32),
        item_distance=distance,
        exit_threshold=np.float32(config.environment.exit_threshold),
        num_users=np.int32(dataset.num_users),
    )


def reward_tables(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> RewardTables:
    """Base and static estimates, static uncertainty, and the bounds of the shift."""
    reward = config.reward
    base = base_reward(dataset, world_model, reward)
    estimate = reward.estimate
    if estimate == "references":  # until the warm-up ends, ROLeR's static reward
        estimate = "neighbours" if config.training.warm_up_epochs else "world_model"
    uncertainty = static_uncertainty(dataset, world_model, reward)
    # Published bounds are those of the DeepFM tables, whatever replaces these; the
    # dynamic uncertainty has no table, so the shift is that of the base table alone.
    dynamic = reward.uncertainty == "dynamic"
    variance = np.zeros(1, np.float32) if dynamic else world_model.variance
    return RewardTables(
        base=base,
        item_mean=base.mean(axis=0),
        static=static_reward(dataset, world_model, reward, estimate),
        uncertainty=uncertainty,
        entropy=statistics.entropy_tables(
            dataset.log,
            dataset.environment_items,
            dataset.num_logged_items,
            reward.entropy_orders,
        ),
        estimate_low=np.min(base),
        estimate_high=np.max(base),
        uncertainty_low=np.min(variance),
        uncertainty_high=np.max(variance),
    )


def base_reward(
    dataset: Dataset, world_model: WorldModelTables, reward: RewardConfig
) -> np.ndarray:
    """The table `[U, I]` that reference users are asked for (method 4)."""
    if reward.estimate == "true":
        return dataset.true_reward
    if reward.base == "neighbours":
        return neighbour_reward(dataset, world_model.prediction, reward)
    return world_model.prediction


def static_reward(
    dataset: Dataset, world_model: WorldModelTables, reward: RewardConfig, estimate: str
) -> np.ndarray:
    """The frozen reward table `[U, I]` that `estimate` names."""
    prediction = world_model.prediction
    if estimate == "true":
        return dataset.true_reward
    if estimate == "neighbours":
        return neighbour_reward(dataset, prediction, reward)
    item_mean = prediction.mean(axis=0, keepdims=True)
    if estimate == "population_mean":
        return np.broadcast_to(item_mean, prediction.shape).copy()
    if estimate == "user_centred":
        return prediction - prediction.mean(axis=1, keepdims=True) + prediction.mean()
    return prediction


def neighbour_reward(
    dataset: Dataset,
    prediction: np.ndarray,
    reward: RewardConfig,
    of: np.ndarray | None = None,
) -> np.ndarray:
    """ROLeR's reward: rows of the k most similar users, mixed (protocol 7).

    The user itself is one of its neighbours, as published. Weights: `mean` 1/k,
    `cosine` cos (II-weight), `cosine_div` cos / k, `cosine_norm` cos / sum of cos.
    On KuaiRec (`neighbour_source="log"`) it is the plain mean of what similar logged
    users outside the environment got, cells that were not logged counting as 0.

    Returns:
      [Q, I]: the rows of the users `of [Q]`, of all where that is None.
    """
    if reward.neighbour_source == "log":
        nearest, feedback = statistics.nearest_outsiders(dataset, reward.neighbours)
        rows = nearest if of is None else nearest[of]
        return np.stack([feedback[row].mean(axis=0) for row in rows])
    users, cosines = _neighbours(dataset, prediction, reward, of)
    total = np.sum(cosines, axis=1, keepdims=True)
    k = np.float32(users.shape[1])
    weights = {
        "mean": np.full_like(cosines, 1.0 / k),
        "cosine": cosines,
        "cosine_div": cosines / k,
        "cosine_norm": cosines / np.maximum(total, np.finfo(np.float32).tiny),
    }[reward.neighbour_weights]
    mixed = np.zeros((len(users), prediction.shape[1]), prediction.dtype)
    for column in range(users.shape[1]):  # keeps the memory of one table
        mixed += weights[:, column : column + 1] * prediction[users[:, column]]
    return mixed


def static_uncertainty(
    dataset: Dataset, world_model: WorldModelTables, reward: RewardConfig
) -> np.ndarray:
    """The static uncertainty table `[U, I]` (protocol 3.1 and 7).

    `neighbour_variance` is I-var, the variance over the k neighbours' rows: that of a
    population, but of a sample on KuaiRec (`neighbour_source="log"`), as published;
    `neighbour_cosine` is I-cos_{min,avg,max}, of 1 - cos over the neighbours, the same
    for every item. ROLeR's weighted neighbour rewards go with no uncertainty at all.
    """
    prediction = world_model.prediction
    if reward.uncertainty == "ensemble_variance":
        return world_model.variance
    if reward.uncertainty == "neighbour_variance" and reward.neighbour_source == "log":
        nearest, feedback = statistics.nearest_outsiders(dataset, reward.neighbours)
        return np.stack([feedback[row].var(axis=0, ddof=1) for row in nearest])
    if reward.uncertainty == "neighbour_variance":
        users, _ = _neighbours(dataset, prediction, reward)
        return np.stack([prediction[row].var(axis=0) for row in users])
    if reward.uncertainty == "neighbour_cosine":
        _, cosines = _neighbours(dataset, prediction, reward)
        distances = 1.0 - cosines
        distance = {
            "min": distances.min(axis=1, keepdims=True),
            "avg": distances.mean(axis=1, keepdims=True),
            "max": distances.max(axis=1, keepdims=True),
        }[reward.neighbour_cosine]
        return np.broadcast_to(distance, prediction.shape).astype(np.float32)
    return np.zeros_like(prediction)


def exposure_distance(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> np.ndarray:
    """How unlike two items `[I, I]` are to a user who tires of the like (CIRS).

    Where users leave by tags: 1 / (J + 0.001) of the Jaccard index J (EasyRL4Rec).
    Elsewhere Euclidean between columns of predictions; the published code takes those
    of the true matrix, which training must not see. Empty without the effect.
    """
    if not config.reward.exposure_weight:
        return np.zeros((0, 0), np.float32)
    if config.environment.exit_rule != "tags":
        return statistics.item_distances(world_model.prediction)
    tags = dataset.item_tags.astype(np.float32)
    common, size = tags @ tags.T, tags.sum(axis=1)
    union = size[:, None] + size[None, :] - common
    return 1.0 / (common / np.maximum(union, 1.0) + np.float32(1e-3))


def user_tables(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> UserTables:
    """Feedback vectors p_u, their cosines, every user's nearest others, and the pool.

    Empty for methods without references: at full size they cost minutes and gigabytes.
    """
    if config.reward.references == "none":
        nothing = np.zeros((0, 0), np.float32)
        return UserTables(nothing, nothing, np.zeros((0, 0), np.int32))
    feedback = _feedback(dataset, world_model, config.selector.feedback)
    if config.selector.center_feedback:
        feedback = feedback - feedback.mean(axis=0, keepdims=True)
    k = min(config.selector.k_sel, dataset.num_users - 1)
    kind = config.selector.pool if config.reward.references == "learned" else "all"
    wanted = max(k, config.selector.pool_size) if kind == "nearest" else k
    similarity, nearest = statistics.user_similarity(feedback, wanted)
    feedback = np.asarray(feedback, np.float32)
    pool: Any = None
    if kind == "nearest":
        pool = np.sort(nearest, axis=1)
    elif kind == "clusters":
        pool = balanced_clusters(feedback, _cluster_size(dataset, config))
    return UserTables(feedback, similarity, nearest[:, :k], pool)


def _cluster_size(dataset: Dataset, config: ExperimentConfig) -> int:
    """As many users a cluster as clusters, where nothing else is asked for."""
    return config.selector.cluster_size or math.isqrt(dataset.num_users - 1) + 1


def _feedback(dataset: Dataset, world_model: WorldModelTables, name: str) -> np.ndarray:
    """The feedback vectors p_u `[U, F]` that `name` stands for."""
    if name == "logged":
        return statistics.logged_feedback(dataset)
    return world_model.user_vectors if name == "embedding" else world_model.prediction


def _neighbours(
    dataset: Dataset,
    prediction: np.ndarray,
    reward: RewardConfig,
    of: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    logged = reward.neighbour_signature == "logged"
    signature = statistics.logged_feedback(dataset) if logged else prediction
    k = reward.neighbours
    return statistics.nearest_users(signature, k, include_self=True, of=of)


def check_sizes(dataset: Dataset, config: ExperimentConfig) -> None:
    """Raises ConfigError where a field does not fit the data, before any work."""
    _check_heads(dataset, config)
    if config.environment.exit_rule == "tags" and not dataset.item_tags.shape[1]:
        raise ConfigError(
            f"environment.exit_rule='tags': the items of {dataset.name} have no tags; "
            "set environment.exit_rule=none, or distance"
        )
    num_users = dataset.num_users
    if config.reward.references != "none" and config.selector.k_sel >= num_users:
        raise ConfigError(
            f"selector.k_sel={config.selector.k_sel}: must be below the number of "
            f"users ({num_users}), a user being no reference of its own"
        )
    if config.reward.references == "learned":
        _check_pool(num_users, config.selector)
    if config.reward.neighbours > num_users:
        raise ConfigError(
            f"reward.neighbours={config.reward.neighbours}: there are {num_users} users"
        )


def _check_pool(num_users: int, selector: SelectorConfig) -> None:
    if selector.pool == "nearest" and selector.pool_size >= num_users:
        raise ConfigError(
            f"selector.pool_size={selector.pool_size}: must be below the number of "
            f"users ({num_users}); everybody else is selector.pool=all"
        )
    if selector.pool == "clusters" and selector.cluster_size > num_users:
        raise ConfigError(
            f"selector.cluster_size={selector.cluster_size}: there are {num_users} "
            "users; 0 takes the square root of their number"
        )


def _check_heads(dataset: Dataset, config: ExperimentConfig) -> None:
    slots = 1 + sum(feature.codes.shape[1] for feature in dataset.item_features)
    dense = dataset.item_dense.shape[1]
    width = config.world_model.embedding_dim * slots + dense + 1
    heads = config.tracker.heads
    if config.tracker.kind == "transformer" and width % heads:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        raise ConfigError(
            f"tracker.heads={heads}: must divide the width of a token, {width} (item "
            f"vector and reward): one of {', '.join(map(str, divisors))}"
        )
