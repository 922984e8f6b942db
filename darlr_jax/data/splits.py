"""Rows of the training log held out, to choose a configuration by.

A data set's own held-out log, as Coat's ratings of random items, and its test matrix
belong to the evaluation. What chooses by them cannot be evaluated by them any more; a
split of the training log takes their place.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pandas as pd

from darlr_jax.config import ValidationConfig
from darlr_jax.data import logs
from darlr_jax.data.averages import user_and_item_levels
from darlr_jax.data.dataset import DataError, Dataset, InteractionLog


def validation_data(dataset: Dataset, config: ValidationConfig) -> Dataset:
    """`dataset` as it is, or a split of its log that pays means of what is held out.

    Whatever is trained on the one part is then evaluated by the other: `true_reward`
    is the shrunk user and item means of the held-out rewards. They rank policies by how
    good the items are that they recommend, to the typical user: which user an item
    suits they do not know, and of items that nobody chose to rate only the mean.

    Raises:
      DataError: nothing is held out.
    """
    if not config.share:
        return dataset
    split = hold_out(dataset, config.share, config.seed)
    return dataclasses.replace(
        split,
        true_reward=_held_out_means(split, config.shrinkage),
        ground_truth=f"means of {config.share:g} of the training log, held out, "
        f"seed {config.seed}: for choosing, not for results",
        sources=split.sources | {"validation": _digest(config)},
    )


def hold_out(dataset: Dataset, share: float, seed: int) -> Dataset:
    """`dataset` with its training log split at random, user by user.

    Of a user's n distinct items `share * n`, rounded, are held out, but never all of
    them: all rows of a (user, item) cell are in one part, or what is held out would be
    known where cells repeat.

    Returns:
      A data set whose `log` and `held_out` are the two parts of the log of `dataset`.
      Nothing is left of its own `held_out`, and `true_reward` is zero everywhere.

    Raises:
      DataError: no user has as many items that one would be held out.
    """
    log = dataset.log
    cell_of_row, users = _cells(log, dataset.num_logged_items)
    chosen = _rank_within_user(users, seed) < _counts(users, share)
    if not chosen.any():
        raise DataError(
            f"log: a share of {share} holds out no row, as no user has enough items; "
            "raise dataset.validation.share (tune_world_model: --share)"
        )
    chosen = chosen[cell_of_row]
    # Splits by cells and by rows differ where cells repeat, and so do world models.
    unit = ("cells",) if len(users) < len(log) else ()
    return dataclasses.replace(
        dataset,
        log=logs.select(log, ~chosen),
        held_out=logs.select(log, chosen),
        true_reward=np.zeros_like(dataset.true_reward),
        ground_truth="none: rows of the training log are held out",
        sources=dataset.sources | {"split": _digest((share, seed, *unit))},
    )


def _digest(recipe: object) -> str:
    return hashlib.sha256(repr(recipe).encode()).hexdigest()


def _held_out_means(split: Dataset, shrinkage: float) -> np.ndarray:
    """[U, I] float32 means of the held-out rewards, of the environment's cells alone.

    Each is summed in double precision; a whole table of that is never made.
    """
    rewards = dataclasses.replace(split.held_out, labels=split.held_out.rewards)
    shape = (split.num_logged_users, split.num_logged_items)
    users, items = user_and_item_levels(rewards, shape, shrinkage)
    users, items = users[split.environment_users], items[split.environment_items]
    means = np.empty((len(users), len(items)), np.float32)
    return np.add(users[:, None], items, out=means, casting="same_kind")


def _cells(log: InteractionLog, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct (user, item) cells of a log, numbered as they first appear.

    So numbered, the cells of a log without repeats are its rows.

    Returns:
      the cell of each row `[N]`, and the user of each cell `[M]`.
    """
    codes = log.users.astype(np.int64) * num_items + log.items
    cell_of_row, codes = pd.factorize(codes)
    return cell_of_row, codes // num_items


def _rank_within_user(users: np.ndarray, seed: int) -> np.ndarray:
    """A random order of each user's cells, `[M]` from 0 on."""
    shuffled = np.random.default_rng(seed).permutation(len(users))
    order = shuffled[np.argsort(users[shuffled], kind="stable")]
    start = np.flatnonzero(np.diff(users[order], prepend=-1))
    place = np.arange(len(users))
    rank = np.empty(len(users), int)
    rank[order] = place - np.repeat(start, np.diff(np.append(start, len(users))))
    return rank


def _counts(users: np.ndarray, share: float) -> np.ndarray:
    """How many cells of the user of each cell `[M]` are held out."""
    _, user_of_cell, cells = np.unique(users, return_inverse=True, return_counts=True)
    held_out = np.floor(share * cells + 0.5).astype(int)
    return np.minimum(held_out, cells - 1)[user_of_cell]
