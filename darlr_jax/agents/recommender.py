"""The recommender: history -> state -> item (DARLR, recommender agent)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from darlr_jax.agents import categorical
from darlr_jax.agents.a2c import Losses, actor_critic_loss, sum_over_chunks
from darlr_jax.config import ExperimentConfig, RecommenderConfig
from darlr_jax.networks.actor_critic import make_actor_critic
from darlr_jax.networks.state_tracker import make_state_tracker, state_width
from darlr_jax.types import Array, Key, Network, Observation, Params, RewardScale


class RecommenderNetworks(NamedTuple):
    """State tracker and head; both are trained by the recommender's loss."""

    tracker: Network
    actor_critic: Network
    learns_elsewhere: bool  # where the history is shorter than the window


class RecommenderParams(NamedTuple):
    """Parameters of `RecommenderNetworks`."""

    tracker: Params
    actor_critic: Params


class Action(NamedTuple):
    """What the recommender did and in which state."""

    item: Array  # [] int32
    state: Array  # [D]
    value: Array  # [] of that state


class RecommenderBatch(NamedTuple):
    """Stored recommendations, as learning needs them."""

    observation: Observation  # [M, W]
    used: Array | None  # [M, I] items that were masked, None without a mask
    item: Array  # [M]
    target: Array  # [M]
    advantage: Array  # [M]
    weight: Array  # [M], sums to one over a minibatch


def make_networks(
    config: ExperimentConfig, num_items: int, item_width: int
) -> RecommenderNetworks:
    """The networks of I items whose vectors have `item_width` entries."""
    width = state_width(item_width)
    return RecommenderNetworks(
        make_state_tracker(config.tracker, num_items, item_width),
        make_actor_critic(config.recommender.hidden, num_items, width),
        config.tracker.learns_elsewhere,
    )


def init(
    key: Key, item_vectors: Array, networks: RecommenderNetworks
) -> RecommenderParams:
    """Fresh parameters; `item_vectors [I, D-1]` are the world model's."""
    tracker_key, head_key = jax.random.split(key)
    return RecommenderParams(
        networks.tracker.init(tracker_key, item_vectors),
        networks.actor_critic.init(head_key),
    )


def act(
    params: RecommenderParams,
    key: Key,
    observation: Observation,
    used: Array | None,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
    explore: bool,
) -> Action:
    """Samples an item. _Unbatched_; the key is consumed.

    Args:
      params: parameters.
      key: random key.
      observation: the last recommendations and their rewards.
      used: `[I]` items that must not be recommended, or None.
      scale: of rewards in the state.
      networks: the pure functions.
      explore: whether dropout is active, as it is while collecting training data.
    """
    sample_key, dropout_key = jax.random.split(key)
    tracker_key = dropout_key if explore else None
    state = networks.tracker.apply(params.tracker, observation, scale, tracker_key)
    output = networks.actor_critic.apply(params.actor_critic, state)
    mask = categorical.allowed(used)
    item = categorical.sample(jax.random.uniform(sample_key), output.logits, mask)
    return Action(item, state, output.value)


def learned_value(
    params: RecommenderParams,
    key: Key,
    observation: Observation,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
) -> Array:
    """The critic's value `[]` of the state in which an action will be learned.

    An advantage needs it where `networks.learns_elsewhere`: of the state acted in the
    critic has learned nothing. _Unbatched_; the key is consumed by dropout.
    """
    state = networks.tracker.apply(
        params.tracker, observation, scale, key, acting=False
    )
    return networks.actor_critic.apply(params.actor_critic, state).value


def loss(
    params: RecommenderParams,
    key: Key,
    batch: RecommenderBatch,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
    config: RecommenderConfig,
) -> tuple[Array, Losses]:
    """Actor-critic loss of stored recommendations; the key is consumed by dropout."""
    state = networks.tracker.apply(
        params.tracker, batch.observation, scale, key, acting=False
    )
    output = networks.actor_critic.apply(params.actor_critic, state)
    mask = categorical.allowed(batch.used)
    log_probs = categorical.masked_log_softmax(output.logits, mask)
    losses = actor_critic_loss(
        categorical.log_prob(log_probs, batch.item),
        output.value,
        categorical.entropy(log_probs),
        batch.target,
        batch.advantage,
        batch.weight,
        config,
    )
    return losses.total, losses


def loss_gradients(
    params: RecommenderParams,
    key: Key,
    batch: RecommenderBatch,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
    config: RecommenderConfig,
) -> tuple[RecommenderParams, Losses]:
    """Gradients and terms of `loss`, `learning_chunk` recommendations at a time.

    The key is consumed by dropout.
    """
    return sum_over_chunks(
        lambda chunk, number: _gradients_of_chunk(
            params,
            jax.random.fold_in(key, number),
            chunk,
            scale,
            networks=networks,
            config=config,
        ),
        batch,
        config.learning_chunk,
    )


# A function of its own is traced once, however many loops of a program call it.
@functools.partial(jax.jit, static_argnames=("networks", "config"))
def _gradients_of_chunk(
    params: RecommenderParams,
    key: Key,
    chunk: RecommenderBatch,
    scale: RewardScale,
    *,
    networks: RecommenderNetworks,
    config: RecommenderConfig,
) -> tuple[RecommenderParams, Losses]:
    bound = functools.partial(loss, networks=networks, config=config)
    gradient: Callable[..., tuple[RecommenderParams, Losses]] = jax.grad(
        bound, has_aux=True
    )
    return gradient(params, key, chunk, scale)
