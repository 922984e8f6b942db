"""The recommender's head: state -> logits over items and a value."""

from __future__ import annotations

import jax.numpy as jnp
from flax import linen as nn

from darlr_jax.networks.base import MLP, Linear, call
from darlr_jax.types import ActorCriticOutput, Array, Key, Network, Params


class ActorCritic(nn.Module):
    """A trunk shared by actor and critic (protocol 5)."""

    hidden: tuple[int, ...]
    num_actions: int

    @nn.compact
    def __call__(self, state: Array) -> ActorCriticOutput:
        """Maps a state `[..., D]` to logits `[..., I]` and a value `[...]`."""
        hidden = MLP(self.hidden)(state)
        logits = Linear(self.num_actions, name="actor")(hidden)
        value = Linear(1, name="critic")(hidden)
        return ActorCriticOutput(logits, value[..., 0])


def make_actor_critic(
    hidden: tuple[int, ...], num_actions: int, state_width: int
) -> Network:
    """`init(key) -> params`, `apply(params, state [..., D]) -> ActorCriticOutput`."""
    module = ActorCritic(hidden, num_actions)

    def init(key: Key) -> Params:
        return module.init(key, jnp.zeros((state_width,)))["params"]

    def apply(params: Params, state: Array) -> ActorCriticOutput:
        return call(module, params, state)

    return Network(init, apply)
