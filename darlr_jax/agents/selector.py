"""The selector: K_sel reference users, one after another (DARLR, selector agent).

Pick j is drawn without replacement from all users but the current one, or from some of
them (`agents.pools`); its state is a transformer over the last w_sel tokens, token 0 of
the current user and token j of the user picked at j. The K picks of one recommendation
are one episode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from darlr_jax.agents.a2c import Losses, actor_critic_loss, sum_over_chunks
from darlr_jax.agents.pools import pool_of
from darlr_jax.config import SelectorConfig
from darlr_jax.types import (
    Array,
    Coefficients,
    Key,
    Params,
    References,
    RewardTables,
    SelectorNetwork,
    UserCodes,
    UserTables,
)


class SelectorState(NamedTuple):
    """The episode of picks in progress."""

    seen: Array  # [w_sel, 4, width] images of who was seen, newest first
    length: Array  # [] int32, users seen
    left: Any  # users that may still be picked, as the pool has it


class SelectorBatch(NamedTuple):
    """Stored picks of M recommendations, as learning needs them."""

    user: Array  # [M] the current user
    context: Array  # [M, D], or [M, 2D-1] with the item
    picked: Array  # [M, K]
    target: Array  # [M, K]
    advantage: Array  # [M, K]
    weight: Array  # [M], sums to one over a minibatch


def encode_users(
    params: Params,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> UserCodes:
    """Images of all users and their keys, arranged for the pool, under `params`."""
    images, keys = network.encode_users(params, users.feedback)
    return UserCodes(images, pool_of(config).arrange(keys, users))


def select_references(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> tuple[Array, Array]:
    """Picks K_sel users for `user`. _Unbatched_; the key is consumed.

    Args:
      params: the selector's parameters.
      key: random key.
      user: `[]` the current user, never picked.
      context: `[D]` the recommender's state, detached; `[2D-1]` with the item.
      codes: from `encode_users`, under `params`.
      users: whom the pool holds.
      network: the pure functions.
      config: `k_sel`, `window` and `pool`.

    Returns:
      Picked users `[K]` int32 and the critic's value before each pick `[K]`.
    """
    pool = pool_of(config)
    offer, left = pool.open(user, codes.keys, users)
    of_context = network.encode_context(params, context)
    slots = jnp.arange(config.window)

    def pick(
        state: SelectorState, uniform: Array
    ) -> tuple[SelectorState, tuple[Array, Array]]:
        window = state.seen + of_context
        query, value = network.apply(params, window, slots < state.length)
        picked, left = pool.draw(uniform, query, offer, state.left)
        seen = _see(picked, state.seen, codes)
        return SelectorState(seen, state.length + 1, left), (picked, value)

    seen = _see(user, jnp.zeros_like(of_context), codes)
    start = SelectorState(seen, jnp.ones((), jnp.int32), left)
    uniforms = jax.random.uniform(key, (config.k_sel, *pool.uniforms))
    _, (picked, value) = lax.scan(pick, start, uniforms)
    return picked, value


def _see(user: Array, seen: Array, codes: UserCodes) -> Array:
    """The window `[w_sel, 4, width]` with one more user in front."""
    return jnp.concatenate([codes.images[user][None], seen[:-1]])


def random_references(key: Key, user: Array, num_users: int, k_sel: int) -> Array:
    """K_sel uniformly random other users `[K]` without replacement: a control."""
    noise = jax.random.uniform(key, (num_users,)).at[user].set(-1.0)
    return lax.top_k(noise, k_sel)[1].astype(jnp.int32)


def similarity_gain(user: Array, picked: Array, similarity: Array) -> Array:
    """r_s = cos(p_u, p_{u_j}) of each pick (DARLR, similarity gain).

    Shapes: user `[]`, picked `[K]`, similarity `[U, U]`; returns `[K]`.
    """
    return similarity[user, picked]


def diversity_gain(picked: Array, similarity: Array) -> Array:
    """r_d = sum over v in u_S of [1 - cos(v, u_j)] / |u_S| (DARLR, diversity gain).

    u_S are the users picked before u_j; the first pick gains 0.
    Shapes: picked `[K]`, similarity `[U, U]`; returns `[K]`.
    """
    k_sel = picked.shape[0]
    distance = 1.0 - similarity[picked[:, None], picked[None, :]]
    before = jnp.tri(k_sel, k=-1)
    count = jnp.maximum(jnp.arange(k_sel), 1)
    return jnp.sum(before * distance, axis=1) / count


def reference_users(user: Array, picked: Array, tables: UserTables) -> References:
    """The picked users `[K]` with their gains."""
    return References(
        picked,
        similarity_gain(user, picked, tables.similarity),
        diversity_gain(picked, tables.similarity),
    )


def intrinsic_reward(
    user: Array,
    item: Array,
    references: References,
    tables: RewardTables,
    coefficients: Coefficients,
    *,
    config: SelectorConfig,
) -> Array:
    """r^sel = r_hat + lambda_s r_s + lambda_d r_d of each pick `[K]` (DARLR).

    r_hat is the running mean over the picks so far of the base table at the recommended
    item (our reading of "the single-step recommendation reward"), entered as
    `config.reward_estimate` says: raw, less the item's mean over users, less the
    current user's own estimate, or not at all.
    """
    gains = coefficients.lambda_s * references.similarity
    gains += coefficients.lambda_d * references.diversity
    if config.reward_estimate == "absent":
        return gains
    answers = tables.base[references.users, item]
    if config.reward_estimate == "item_centred":
        answers -= tables.item_mean[item]
    elif config.reward_estimate == "user_centred":
        answers -= tables.base[user, item]
    elif config.reward_estimate != "raw":
        raise NotImplementedError(
            f"selector.reward_estimate={config.reward_estimate!r}"
        )
    return jnp.cumsum(answers) / jnp.arange(1, config.k_sel + 1) + gains


def loss(
    params: Params,
    codes: UserCodes,
    batch: SelectorBatch,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> tuple[Array, Losses]:
    """Actor-critic loss of stored picks, all M * K of them at once.

    `codes` are those of `encode_users` under the same `params`.
    """
    windows, valid = _windows(params, batch, codes, network, config)
    query, value = network.apply(params, windows, valid)  # [M, K, D], [M, K]
    picks = pool_of(config).evaluate(
        query, codes.keys, batch.user, batch.picked, users, config
    )
    weight = jnp.broadcast_to(batch.weight[:, None] / config.k_sel, batch.picked.shape)
    losses = actor_critic_loss(
        picks.log_prob.ravel(),
        value.ravel(),
        picks.entropy.ravel(),
        batch.target.ravel(),
        batch.advantage.ravel(),
        weight.ravel(),
        config,
    )
    return losses.total, losses


def loss_gradients(
    params: Params,
    batch: SelectorBatch,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> tuple[Params, Losses]:
    """Gradients and terms of `loss`, `learning_chunk` recommendations at a time.

    The projection of the feedback vectors is differentiated once, after the chunks have
    been added up.
    """
    encode = functools.partial(encode_users, network=network, config=config)
    codes, pull_back = jax.vjp(lambda p: encode(p, users), params)
    (grads, code_grads), losses = sum_over_chunks(
        lambda chunk, _: _gradients_of_chunk(
            params, codes, chunk, users, network=network, config=config
        ),
        batch,
        config.learning_chunk,
    )
    grads = jax.tree.map(jnp.add, grads, pull_back(code_grads)[0])
    return grads, losses


# A function of its own is traced once, however many loops of a program call it.
@functools.partial(jax.jit, static_argnames=("network", "config"))
def _gradients_of_chunk(
    params: Params,
    codes: UserCodes,
    chunk: SelectorBatch,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> tuple[tuple[Params, UserCodes], Losses]:
    bound = functools.partial(loss, network=network, config=config)
    gradient: Callable[..., tuple[tuple[Params, UserCodes], Losses]] = jax.grad(
        bound, (0, 1), has_aux=True
    )
    return gradient(params, codes, chunk, users)


def _windows(
    params: Params,
    batch: SelectorBatch,
    codes: UserCodes,
    network: SelectorNetwork,
    config: SelectorConfig,
) -> tuple[Array, Array]:
    """What each pick saw: images `[M, K, w_sel, 4, width]`, valid `[M, K, w_sel]`."""
    seen = jnp.concatenate([batch.user[:, None], batch.picked[:, :-1]], axis=1)
    images = codes.images[seen]  # [M, K, 4, width]
    delayed = [_delayed(images, age) for age in range(config.window)]
    of_context = network.encode_context(params, batch.context)
    windows = jnp.stack(delayed, axis=2) + of_context[:, None]
    turns, ages = jnp.arange(seen.shape[1]), jnp.arange(config.window)
    valid = ages[None, :] <= turns[:, None]
    return windows, jnp.broadcast_to(valid[None], windows.shape[:3])


def _delayed(images: Array, picks: int) -> Array:
    """Images `[M, K, 4, width]`, so many picks later; zeros before the first one."""
    k_sel = images.shape[1]
    kept, absent = max(k_sel - picks, 0), min(picks, k_sel)
    return jnp.pad(images[:, :kept], ((0, 0), (absent, 0), (0, 0), (0, 0)))
