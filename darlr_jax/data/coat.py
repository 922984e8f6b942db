"""Coat shopping: 290 users, 300 coats, ratings 1..5 (Schnabel et al., ICML 2016).

The training ratings are self-selected, the test ratings are of coats drawn at random.
The evaluation pays a completed matrix of whole ratings, the "pseudo ground truth" of
the SOFA simulator (Huang et al., RecSys 2020), as that of DORL and ROLeR does. No file
holds a time.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np

from darlr_jax.data import frames, statistics, text
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)

NUM_USERS = 290
NUM_ITEMS = 300

# One-hot blocks of the feature files, left to right: name -> columns.
USER_BLOCKS = {"gender_u": 2, "age": 6, "location": 3, "fashioninterest": 3}
ITEM_BLOCKS = {"gender_i": 2, "jackettype": 16, "color": 13, "onfrontpage": 2}

TRAIN = "train.ascii"
TEST = "test.ascii"
TRUTH = "coat_pseudoGT_ratingM.ascii"
USER_FEATURES = "user_item_features/user_features.ascii"
ITEM_FEATURES = "user_item_features/item_features.ascii"

FILES = (TRAIN, TEST, TRUTH, USER_FEATURES, ITEM_FEATURES)

TRUTH_MD5 = "dea35971e6998da548bac2a47fc5c396"

_COAT = "https://www.cs.cornell.edu/~schnabts/mnar/"
_SOFA = f"https://github.com/BetsyHJ/SOFA (data/{TRUTH})"


def load(data_dir: str | Path) -> Dataset:
    """Reads `<data_dir>/coat/`, laid out as its publishers do.

    Returns:
      The data set; every user and item is one of the environment (protocol 1.5).

    Raises:
      DataError: a file is missing or malformed; names it, and the line and column.
    """
    folder = Path(data_dir) / "coat"
    paths = {name: frames.find(folder, name) for name in FILES}
    log = _to_log(_read_ratings(paths[TRAIN], low=0, origin=_COAT))
    held_out = _to_log(_read_ratings(paths[TEST], low=0, origin=_COAT))
    truth = _read_ratings(paths[TRUTH], low=1, origin=_SOFA)
    users = _read_one_hot(paths[USER_FEATURES], NUM_USERS, USER_BLOCKS)
    items = _read_one_hot(paths[ITEM_FEATURES], NUM_ITEMS, ITEM_BLOCKS)
    return Dataset(
        name="coat",
        log=log,
        held_out=held_out,
        num_logged_users=NUM_USERS,
        num_logged_items=NUM_ITEMS,
        user_features=_to_features(users),
        item_features=_to_features(items),
        item_dense=np.zeros((NUM_ITEMS, 0), np.float32),
        environment_users=np.arange(NUM_USERS, dtype=np.int32),
        environment_items=np.arange(NUM_ITEMS, dtype=np.int32),
        true_reward=truth.astype(np.float32),
        item_tags=np.concatenate(list(items.values()), axis=1),
        # Every logged row counts, whatever its rating (protocol 1.7).
        dominated=np.stack(
            [statistics.dominated_items(block, log.items) for block in items.values()]
        ),
        dominated_names=tuple(items),
        ground_truth=_describe_truth(paths[TRUTH]),
        sources={name: text.digest(path) for name, path in paths.items()},
    )


def _read_ratings(path: Path, *, low: int, origin: str) -> np.ndarray:
    """[290, 300] ratings; 0, where `low` allows it, means "not rated"."""
    shape = (NUM_USERS, NUM_ITEMS)
    return text.read_integers(path, shape, low=low, high=5, origin=origin)


def _to_log(ratings: np.ndarray) -> InteractionLog:
    """The rated cells in (user, item) order, the only order there is."""
    users, items = np.nonzero(ratings)
    rated = ratings[users, items].astype(np.float32)
    return InteractionLog(
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        labels=rated,
        rewards=rated,
        times=None,
    )


def _read_one_hot(
    path: Path, num_rows: int, blocks: dict[str, int]
) -> dict[str, np.ndarray]:
    """Reads one feature file into name -> [rows, columns of its block] bool."""
    shape = (num_rows, sum(blocks.values()))
    matrix = text.read_integers(path, shape, low=0, high=1, origin=_COAT)
    ends = list(itertools.accumulate(blocks.values()))
    parts = np.split(matrix, ends[:-1], axis=1)
    for name, part, end in zip(blocks, parts, ends, strict=True):
        ones = part.sum(axis=1)
        for row in np.flatnonzero(ones != 1)[:1]:
            raise DataError(
                f"{path}: line {row + 1}, columns {end - part.shape[1] + 1} to {end}: "
                f"expected exactly one 1 ({name}), found {ones[row]}"
            )
    return {name: part.astype(bool) for name, part in zip(blocks, parts, strict=True)}


def _to_features(blocks: dict[str, np.ndarray]) -> tuple[CategoricalFeature, ...]:
    """One feature a block; the category is the position of the 1."""
    return tuple(
        CategoricalFeature(
            name=name,
            codes=block.argmax(axis=1)[:, None].astype(np.int32),
            size=block.shape[1],
        )
        for name, block in blocks.items()
    )


def _describe_truth(path: Path) -> str:
    with text.opened(path, _SOFA) as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    if md5 == TRUTH_MD5:
        return f"Coat pseudo ground truth, SOFA release (md5 {md5})"
    return f"Coat pseudo ground truth, NOT the file of the SOFA release (md5 {md5})"
