"""What is subtracted from and added to an estimated reward: one formula each."""

from __future__ import annotations

from typing import Protocol

import jax.numpy as jnp

from darlr_jax.types import Array, EntropyTables


class DynamicUncertainty(Protocol):
    """How little an estimate of references can be relied on."""

    def __call__(
        self,
        value: Array,
        previous: Array,
        answers: Array,
        similarity: Array,
        diversity: Array,
        floor: Array,
    ) -> Array:
        """From estimates `[]`, what the picks answer `[K]`, and their gains `[K]`."""


def dynamic_uncertainty(
    value: Array,
    previous: Array,
    answers: Array,
    similarity: Array,
    diversity: Array,
    floor: Array,
) -> Array:
    """P'_U = |r_dyn - r_{-1}| / (r_s + r_d) (DARLR, dynamic uncertainty penalty).

    Args:
      value: `[]` r_dyn, the present estimate.
      previous: `[]` r_{-1}, the stored one.
      answers: `[K]` r_hat(u', i) of each pick; not read.
      similarity: `[K]` r_s of each pick; its mean enters.
      diversity: `[K]` r_d of each pick; its mean enters.
      floor: `[]` smallest denominator (ours: cosines can be zero or negative).
    """
    del answers
    denominator = jnp.mean(similarity) + jnp.mean(diversity)
    return jnp.abs(value - previous) / jnp.maximum(denominator, floor)


def exposure_effect(
    item: Array, items: Array, turn: Array, distance: Array, tau: float
) -> Array:
    """e_t(i) = sum_{j < t} exp(-(t - j) d(i, a_j) / tau) (CIRS, exposure effect).

    Args:
      item: `[]` the recommended item i.
      items: `[H]` those before it, newest first, H at least the turns of an episode.
      turn: `[]` t, how many of them there are.
      distance: `[I, I]` d; an item repeated at distance 0 counts 1 however long ago.
      tau: time after which an item at distance 1 counts 1/e.
    """
    age = jnp.arange(1, items.shape[0] + 1)
    past = age <= turn
    distances = distance[item, jnp.where(past, items, 0)]
    return jnp.sum(jnp.where(past, jnp.exp(-age * distances / tau), 0.0))


def entropy_bonus(
    item: Array, previous_item: Array, tables: EntropyTables, orders: tuple[int, ...]
) -> Array:
    """H_t = H({a_t}) + H({a_{t-1}, a_t}) over the orders in use (protocol 3.3).

    Args:
      item: `[]` the recommended item.
      previous_item: `[]` the one before; outside [0, I) at the first turn, where the
        missing order-2 term counts 1.
      tables: entropy of the next item in the log, by key.
      orders: a subset of (1, 2); none makes the bonus 0.
    """
    bonus = jnp.zeros(())
    if 1 in orders:
        bonus += tables.single[item]
    if 2 in orders:
        bonus += _pair_entropy(item, previous_item, tables)
    return bonus


def _pair_entropy(item: Array, previous_item: Array, tables: EntropyTables) -> Array:
    num_items = tables.single.shape[0]
    known = (previous_item >= 0) & (previous_item < num_items)
    low, high = jnp.minimum(item, previous_item), jnp.maximum(item, previous_item)
    code = low * num_items + high
    slot = jnp.searchsorted(tables.pair_codes, code)
    slot = jnp.minimum(slot, tables.pair_codes.shape[0] - 1)
    listed = known & (tables.pair_codes[slot] == code)
    return jnp.where(listed, tables.pair_entropy[slot], 1.0)
