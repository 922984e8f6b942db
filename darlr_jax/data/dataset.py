"""The one record that every data set is turned into."""

from __future__ import annotations

import dataclasses

import numpy as np


class DataError(ValueError):
    """Data that cannot be used; one line: which file, where in it, what to do."""


@dataclasses.dataclass(frozen=True)
class InteractionLog:
    """Logged feedback, one row an interaction, in the order of the source.

    Ids count over the *logged* users and items, which can be more than those of the
    environment (see `Dataset.environment_users`).
    """

    users: np.ndarray  # [N] int32
    items: np.ndarray  # [N] int32
    labels: np.ndarray  # [N] float32, what the world model predicts
    rewards: np.ndarray  # [N] float32, the same feedback in the unit of `true_reward`
    times: np.ndarray | None  # [N] int64 seconds, None where the source has no order

    def __len__(self) -> int:
        """The number of interactions N."""
        return len(self.users)


@dataclasses.dataclass(frozen=True)
class CategoricalFeature:
    """One categorical field; a row may hold several categories of one vocabulary."""

    name: str
    codes: np.ndarray  # [rows, width] int32 in [0, size)
    size: int  # the vocabulary, padding included
    padded: bool = False  # True: code 0 means "absent"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Everything that a run knows of its data.

    Axes: U x I environment users and items, X >= U and Y >= I logged ones, C tags, G
    groups of categories.
    """

    name: str
    log: InteractionLog  # what the world model is fitted to
    held_out: InteractionLog  # what its error is reported on
    num_logged_users: int  # X
    num_logged_items: int  # Y
    user_features: tuple[CategoricalFeature, ...]  # rows X
    item_features: tuple[CategoricalFeature, ...]  # rows Y
    item_dense: np.ndarray  # [Y, d] float32, d may be 0
    environment_users: np.ndarray  # [U] int32 ids of logged users
    environment_items: np.ndarray  # [I] int32 ids of logged items
    true_reward: np.ndarray  # [U, I] float32, what evaluation pays
    item_tags: np.ndarray  # [I, C] bool, what the exit rule "tags" compares
    dominated: np.ndarray  # [G, I] bool: items of the majority categories, per group
    dominated_names: tuple[str, ...]  # [G]
    ground_truth: str  # one line: which matrix pays the evaluation
    sources: dict[str, str]  # file name (or generator) -> sha256

    @property
    def num_users(self) -> int:
        """U, the users of the environment."""
        return self.true_reward.shape[0]

    @property
    def num_items(self) -> int:
        """I, the actions of the environment."""
        return self.true_reward.shape[1]
