"""Who answers for a user: the learned selector and its controls, one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp

from darlr_jax.agents import selector
from darlr_jax.config import SelectorConfig
from darlr_jax.types import Array, Key, Params, SelectorNetwork, UserCodes, UserTables


class ChooseReferences(Protocol):
    """Picks reference users for one user: `-> (users [K], value [K])`."""

    def __call__(
        self,
        params: Params,
        key: Key,
        user: Array,
        context: Array,
        codes: UserCodes | None,
        users: UserTables,
    ) -> tuple[Array, Array]:
        """Unbatched; the key is consumed."""


def learned(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes | None,
    users: UserTables,
    *,
    network: SelectorNetwork,
    config: SelectorConfig,
    select: Callable[..., tuple[Array, Array]] = selector.select_references,
) -> tuple[Array, Array]:
    """K_sel users picked by the selector, by way of `select`."""
    assert codes is not None
    return select(
        params, key, user, context, codes, users, network=network, config=config
    )


def random(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes | None,
    users: UserTables,
    *,
    k_sel: int,
) -> tuple[Array, Array]:
    """K_sel other users drawn uniformly without replacement."""
    del params, context, codes
    picked = selector.random_references(key, user, users.feedback.shape[0], k_sel)
    return picked, jnp.zeros(k_sel)


def nearest(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes | None,
    users: UserTables,
) -> tuple[Array, Array]:
    """The K_sel most similar other users, always the same."""
    del params, key, context, codes
    picked = users.neighbours[user]
    return picked, jnp.zeros(picked.shape)


def itself(
    params: Params,
    key: Key,
    user: Array,
    context: Array,
    codes: UserCodes | None,
    users: UserTables,
) -> tuple[Array, Array]:
    """The user alone: with all coefficients 0, MBPO on the base table."""
    del params, key, context, codes, users
    return user[None], jnp.zeros(1)
