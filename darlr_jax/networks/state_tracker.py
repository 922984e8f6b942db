"""State trackers: the last W (item, reward) pairs -> the recommender's state."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.config import TrackerConfig
from darlr_jax.networks.base import call
from darlr_jax.networks.transformer import WindowTransformer
from darlr_jax.types import EMPTY, Array, Key, Network, Observation, Params, RewardScale

_FRESH_STD = 0.01  # of the start token, and of every item with `fresh_items`


def state_width(item_width: int) -> int:
    """D, of a token and so of a state: an item's vector, and what it paid."""
    return item_width + 1


class StateTracker(nn.Module):
    """Tokens [e(item), scaled reward], averaged or read by a transformer; or none."""

    config: TrackerConfig
    num_items: int
    item_width: int

    @nn.compact
    def __call__(
        self,
        observation: Observation,
        scale: RewardScale,
        dropout_key: Key | None = None,
        acting: bool = True,
    ) -> Array:
        """Maps items and rewards `[..., W]` to a state `[..., D]`."""
        vectors = self.param(
            "item_vectors",
            nn.initializers.normal(_FRESH_STD),
            (self.num_items + 1, self.item_width),  # the last row is the start token
        )
        if self.config.kind == "none":
            start = jnp.append(vectors[self.num_items], 1.0)
            return jnp.broadcast_to(start, (*observation.items.shape[:-1], start.size))
        valid = observation.items != EMPTY
        embedded = vectors[jnp.where(valid, observation.items, 0)]
        rewards = (observation.rewards - scale.low) / (scale.high - scale.low)
        rewards = jnp.minimum(rewards, 1.0)
        if self.config.start_reward == "one":
            rewards = jnp.where(observation.items == self.num_items, 1.0, rewards)
        tokens = jnp.concatenate([embedded, rewards[..., None]], axis=-1)
        tokens = jnp.where(valid[..., None], tokens, 0.0)
        if self.config.kind == "average":
            count = jnp.sum(valid, axis=-1, keepdims=True).astype(tokens.dtype)
            return jnp.sum(tokens, axis=-2) / count
        if self.config.kind != "transformer":
            raise NotImplementedError(f"tracker.kind={self.config.kind!r}")
        transformer = WindowTransformer(
            self.config.layers, self.config.heads, self.config.dropout
        )
        if self.config.readout == "published":
            if not acting:
                return _published_learning(transformer, tokens, valid, dropout_key)
            state = _published_acting(transformer, tokens, valid, dropout_key)
            first = observation.items[..., :1] == self.num_items
            return jnp.where(first, tokens[..., 0, :].at[..., -1].set(1.0), state)
        if self.config.readout != "newest":
            raise NotImplementedError(f"tracker.readout={self.config.readout!r}")
        return transformer(tokens, valid, dropout_key)


# The published code reads other states when it learns than when it acts, wherever the
# history is shorter than the window: the first actions of an episode are learned in
# states in which they were not taken. The very first is taken in the start token,
# reward 1, which no transformer has seen.


def _published_acting(
    transformer: WindowTransformer,
    tokens: Array,
    valid: Array,
    dropout_key: Key | None,
) -> Array:
    """The oldest token present."""
    oldest = jnp.sum(valid, axis=-1) - 1
    return transformer(tokens, valid, dropout_key, oldest)


def _published_learning(
    transformer: WindowTransformer,
    tokens: Array,
    valid: Array,
    dropout_key: Key | None,
) -> Array:
    """The last slot; absent tokens are zeros that are attended to."""
    last = jnp.full(valid.shape[:-1], valid.shape[-1] - 1)
    return transformer(tokens, jnp.ones_like(valid), dropout_key, last)


def make_state_tracker(
    config: TrackerConfig, num_items: int, item_width: int
) -> Network:
    """State tracker (protocol 4).

    Returns:
      `init(key, item_vectors [I, D-1]) -> params`, which starts from the world model's
      item vectors unless `config.fresh_items`, and
      `apply(params, observation, scale, dropout_key=None, acting=True) -> state [D]`;
      without a key there is no dropout; `acting` is for the published readout alone.
    """
    module = StateTracker(config, num_items, item_width)

    def init(key: Key, item_vectors: Array) -> Params:
        window = jnp.full((config.window,), num_items, jnp.int32)
        observation = Observation(window, jnp.zeros((config.window,)))
        scale = RewardScale(jnp.zeros(()), jnp.ones(()))
        params = module.init(key, observation, scale)["params"]
        if config.fresh_items:
            return params
        vectors = params["item_vectors"].at[:num_items].set(item_vectors)
        return params | {"item_vectors": vectors}

    def apply(
        params: Params,
        observation: Observation,
        scale: RewardScale,
        dropout_key: Key | None = None,
        acting: bool = True,
    ) -> Array:
        return call(module, params, observation, scale, dropout_key, acting)

    return Network(init, apply)
