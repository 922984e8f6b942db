"""Shrunk averages of a log: what a world model has to beat."""

from __future__ import annotations

import numpy as np

from darlr_jax.data.dataset import InteractionLog

Shape = tuple[int, int]  # logged users X, logged items Y


def global_mean(log: InteractionLog, shape: Shape) -> np.ndarray:
    """The mean label, for every user and item `[X, Y]`."""
    return np.full(shape, np.mean(log.labels, dtype=np.float64))


def item_means(log: InteractionLog, shape: Shape, shrinkage: float) -> np.ndarray:
    """The item's mean label, drawn towards the mean of all: `[X, Y]`.

    Args:
      log: what is averaged.
      shape: of the result.
      shrinkage: rows of the mean of all that are added to each item's own; above 0.
    """
    mean = np.mean(log.labels, dtype=np.float64)
    items = _shrunk(log.items, log.labels - mean, shape[1], shrinkage)
    return np.broadcast_to(mean + items, shape)


def user_and_item_means(
    log: InteractionLog, shape: Shape, shrinkage: float
) -> np.ndarray:
    """The user's mean label, and the mean of what is left of each item: `[X, Y]`.

    Both are drawn towards the mean of all, as in `item_means`. Unlike those they tell
    an item that is liked from one that was met by users who like everything.
    """
    users, items = user_and_item_levels(log, shape, shrinkage)
    return users[:, None] + items[None, :]


def user_and_item_levels(
    log: InteractionLog, shape: Shape, shrinkage: float
) -> tuple[np.ndarray, np.ndarray]:
    """What `user_and_item_means` are the sums of: `[X]` of the users, `[Y]` of items.

    For whoever needs a part of a table that may be too large as a whole.
    """
    mean = np.mean(log.labels, dtype=np.float64)
    users = _shrunk(log.users, log.labels - mean, shape[0], shrinkage)
    left = log.labels - mean - users[log.users]
    return mean + users, _shrunk(log.items, left, shape[1], shrinkage)


def _shrunk(
    ids: np.ndarray, residual: np.ndarray, size: int, shrinkage: float
) -> np.ndarray:
    rows = np.bincount(ids, minlength=size)
    return np.bincount(ids, residual, minlength=size) / (rows + shrinkage)
