"""Rows of a log: which to take, which to hold out, and what their ids stand for."""

from __future__ import annotations

import numpy as np

from darlr_jax.data.dataset import InteractionLog

_SLACK = 1e-9  # 0.29 * 100 must count as 29


def select(log: InteractionLog, rows: np.ndarray) -> InteractionLog:
    """Rows of a log, by a mask [N] or by their numbers, in that order."""
    return InteractionLog(
        users=log.users[rows],
        items=log.items[rows],
        labels=log.labels[rows],
        rewards=log.rewards[rows],
        times=None if log.times is None else log.times[rows],
    )


def positions(ids: np.ndarray, size: int) -> np.ndarray:
    """Where each of `0..size-1` stands in `ids`, as logged ids in those of actions.

    Args:
      ids: distinct, in [0, size).
      size: how many ids there are.

    Returns:
      [size] int64, -1 for what `ids` lacks.
    """
    found = np.full(size, -1, np.int64)
    found[ids] = np.arange(len(ids))
    return found


def hold_out(users: np.ndarray, times: np.ndarray | None, share: float) -> np.ndarray:
    """Which rows of a log to hold out: of each user's n, the whole part of share * n.

    With times, they are the user's last ones (ties: source order). Without, they are
    every k-th of the user's rows in source order, k = 1 / share; the first row of a
    user is never among them.

    Args:
      users: [N] int32.
      times: [N], or None.
      share: in [0, 1).

    Returns:
      [N] bool, True for the rows to hold out.
    """
    if times is None:
        order = np.argsort(users, kind="stable")
    else:
        order = np.lexsort((times, users))
    starts = np.flatnonzero(np.diff(users[order], prepend=-1))
    counts = np.diff(starts, append=len(users))
    rank = np.arange(len(users)) - np.repeat(starts, counts)
    if times is None:
        chosen = _whole_part((rank + 1) * share) > _whole_part(rank * share)
    else:
        chosen = rank >= np.repeat(counts - _whole_part(counts * share), counts)
    held_out = np.empty(len(users), np.bool_)
    held_out[order] = chosen
    return held_out


def _whole_part(values: np.ndarray) -> np.ndarray:
    return np.floor(values + _SLACK)
