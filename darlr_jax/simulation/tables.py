"""Data set + world model -> the arrays that policy training runs on.

Here, and only here, a method's choice of estimate and uncertainty becomes a table.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from darlr_jax.config import ConfigError, ExperimentConfig, RewardConfig, SelectorConfig
from darlr_jax.data import statistics
from darlr_jax.data.clusters import balanced_clusters
from darlr_jax.data.dataset import DataError, Dataset
from darlr_jax.networks.state_tracker import state_width
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
      DataError: the log has not the neighbours that it is asked for, or their cosines
        add up to nothing.
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
    neighbours = None
    if _asks_neighbours(config):
        neighbours = find_neighbours(dataset, world_model.prediction, reward)
    base = base_reward(dataset, world_model, reward, neighbours)
    estimate = reward.estimate
    if reward.asks_references:  # until the warm-up ends, ROLeR's static reward
        estimate = "neighbours" if config.training.warm_up_epochs else "world_model"
    # As published, bounds are those of the world model's tables (of `true`, of that
    # one), whatever estimates reward and uncertainty; where reference users are asked
    # for another base, of that. The dynamic uncertainty has no table.
    no_table = reward.uncertainty_is_dynamic
    variance = np.zeros(1, np.float32) if no_table else world_model.variance
    return RewardTables(
        base=base,
        item_mean=base.mean(axis=0),
        static=static_reward(dataset, base, reward, estimate, neighbours),
        uncertainty=static_uncertainty(world_model, reward, neighbours),
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
    dataset: Dataset,
    world_model: WorldModelTables,
    reward: RewardConfig,
    neighbours: Neighbours | None,
) -> np.ndarray:
    """The table `[U, I]` that reference users are asked for (method 4)."""
    if reward.estimate == "true":
        return dataset.true_reward
    if reward.base == "neighbours":
        assert neighbours is not None
        return neighbour_reward(neighbours, reward)
    if reward.base != "world_model":
        raise NotImplementedError(f"reward.base={reward.base!r}: no table")
    return world_model.prediction


def static_reward(
    dataset: Dataset,
    base: np.ndarray,
    reward: RewardConfig,
    estimate: str,
    neighbours: Neighbours | None,
) -> np.ndarray:
    """The frozen reward table `[U, I]` that `estimate` names.

    A user's own row, and means over users, are those of `base`: the world model's
    predictions, or what reference users are asked for instead, in its unit.
    """
    if estimate == "true":
        return dataset.true_reward
    if estimate == "neighbours":
        if reward.base == "neighbours":
            return base
        assert neighbours is not None
        return neighbour_reward(neighbours, reward)
    item_mean = base.mean(axis=0, keepdims=True)
    if estimate == "population_mean":
        return np.broadcast_to(item_mean, base.shape).copy()
    if estimate == "user_centred":
        return base - base.mean(axis=1, keepdims=True) + base.mean()
    if estimate == "world_model":
        return base
    raise NotImplementedError(f"reward.estimate={estimate!r}: no table is made of it")


class Neighbours(NamedTuple):
    """The k users who are most similar to each of Q, and what they say of the items."""

    users: np.ndarray  # [Q, k] int32 rows of `feedback`
    feedback: np.ndarray  # [V, I]
    cosines: np.ndarray | None  # [Q, k]; None: of logged rows, which are not weighted


def find_neighbours(
    dataset: Dataset,
    prediction: np.ndarray,
    reward: RewardConfig,
    of: np.ndarray | None = None,
) -> Neighbours:
    """Whom ROLeR's reward is made of (protocol 7): the user itself is one of them.

    On KuaiRec (`neighbour_source="log"`) they are logged users outside the environment,
    and `feedback` is what they got, 0 in cells that were not logged.

    Args:
      dataset: the data.
      prediction: the world model's table `[U, I]`.
      reward: `neighbours`, `neighbour_source`, `neighbour_signature`.
      of: the Q users asked for; all if None.

    Raises:
      DataError: fewer than k users, or the log has too few others, or items.
    """
    k = reward.neighbours
    if reward.neighbour_source == "log":
        nearest, feedback = statistics.nearest_outsiders(dataset, k)
        return Neighbours(nearest if of is None else nearest[of], feedback, None)
    if k > dataset.num_users:
        raise DataError(f"reward.neighbours={k}: there are {dataset.num_users} users")
    logged = reward.neighbour_signature == "logged"
    signature = statistics.logged_feedback(dataset) if logged else prediction
    users, cosines = statistics.nearest_users(signature, k, include_self=True, of=of)
    return Neighbours(users, prediction, cosines)


def neighbour_reward(neighbours: Neighbours, reward: RewardConfig) -> np.ndarray:
    """ROLeR's reward: rows of the k most similar users, mixed `[Q, I]` (protocol 7).

    Weights: `mean` 1/k, `cosine` cos (II-weight), `cosine_div` cos / k, `cosine_norm`
    cos / sum of cos. Logged rows are averaged, whatever the weights.

    Raises:
      DataError: cosines whose sum no weight can be divided by.
    """
    users, feedback, cosines = neighbours
    if cosines is None:
        return np.stack([feedback[row].mean(axis=0) for row in users])
    weights = _weights(cosines, reward)
    mixed = np.zeros((len(users), feedback.shape[1]), feedback.dtype)
    for column in range(users.shape[1]):  # keeps the memory of one table
        mixed += weights[:, column : column + 1] * feedback[users[:, column]]
    return mixed


def _weights(cosines: np.ndarray, reward: RewardConfig) -> np.ndarray:
    """Of each neighbour `[Q, k]`."""
    k = np.float32(cosines.shape[1])
    if reward.neighbour_weights == "cosine_norm":
        total = np.sum(cosines, axis=1, keepdims=True)
        if np.min(total) <= 0:
            raise DataError(
                "reward.neighbour_weights='cosine_norm': the cosines of a user's "
                f"{len(cosines[0])} neighbours add up to {np.min(total):.3g}, and "
                "weights are shares of a positive sum; set "
                "reward.neighbour_weights=mean"
            )
        return cosines / total
    return {
        "mean": np.full_like(cosines, 1.0 / k),
        "cosine": cosines,
        "cosine_div": cosines / k,
    }[reward.neighbour_weights]


def static_uncertainty(
    world_model: WorldModelTables, reward: RewardConfig, neighbours: Neighbours | None
) -> np.ndarray:
    """The static uncertainty table `[U, I]`, empty if there is none (protocol 3.1, 7).

    `neighbour_variance` is I-var, the variance over the k neighbours' rows: that of a
    population, but of a sample on KuaiRec (`neighbour_source="log"`), as published;
    `neighbour_cosine` is I-cos_{min,avg,max}, of 1 - cos over the neighbours, the same
    for every item. ROLeR's weighted neighbour rewards go with no uncertainty at all.
    """
    if reward.uncertainty == "ensemble_variance":
        return world_model.variance
    if reward.uncertainty == "none" or reward.uncertainty_is_dynamic:
        return np.zeros((0, 0), np.float32)
    if reward.uncertainty not in ("neighbour_variance", "neighbour_cosine"):
        raise NotImplementedError(
            f"reward.uncertainty={reward.uncertainty!r}: no table"
        )
    assert neighbours is not None
    users, feedback, cosines = neighbours
    if reward.uncertainty == "neighbour_variance":
        ddof = 1 if cosines is None else 0
        return np.stack([feedback[row].var(axis=0, ddof=ddof) for row in users])
    assert cosines is not None, "`config.validate` refuses cosines of logged rows"
    distances = 1.0 - cosines
    distance = {
        "min": distances.min(axis=1, keepdims=True),
        "avg": distances.mean(axis=1, keepdims=True),
        "max": distances.max(axis=1, keepdims=True),
    }[reward.neighbour_cosine]
    shape = len(users), feedback.shape[1]
    return np.broadcast_to(distance, shape).astype(np.float32)


def exposure_distance(
    dataset: Dataset, world_model: WorldModelTables, config: ExperimentConfig
) -> np.ndarray:
    """How unlike two items `[I, I]` are to a user who tires of the like (CIRS).

    Where users leave by tags: 1 / (J + 0.001), J the Jaccard index (EasyRL4Rec: 1 / J).
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
    k = config.selector.k_sel
    kind = config.selector.pool if config.reward.has_selector else "all"
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
    if name == "embedding":
        return world_model.user_vectors
    if name != "predicted":
        raise NotImplementedError(f"selector.feedback={name!r}: no vectors")
    return world_model.prediction


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
    if config.reward.has_selector:
        _check_pool(num_users, config.selector)
    within = config.reward.neighbour_source == "prediction"
    if within and _asks_neighbours(config) and config.reward.neighbours > num_users:
        raise ConfigError(
            f"reward.neighbours={config.reward.neighbours}: there are {num_users} users"
        )


def _asks_neighbours(config: ExperimentConfig) -> bool:
    """Whether a table is made of the nearest users' rows."""
    reward = config.reward
    return (
        "neighbours" in (reward.estimate, reward.base)
        or reward.uncertainty.startswith("neighbour_")
        or config.training.warm_up_epochs > 0
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
    width = state_width(config.world_model.embedding_dim * slots + dense)
    heads = config.tracker.heads
    if config.tracker.kind == "transformer" and width % heads:
        divisors = [n for n in range(1, width + 1) if width % n == 0]
        raise ConfigError(
            f"tracker.heads={heads}: must divide the width of a token, {width} (item "
            f"vector and reward): one of {', '.join(map(str, divisors))}"
        )
