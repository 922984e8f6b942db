"""KuaiRec: how long users watched videos (Gao et al., CIKM 2022).

The big matrix is what an app logged; the small matrix is nearly complete, as its users
were shown all of its videos. The world model learns a standardised watch ratio from the
former, and evaluation pays the raw one of the latter (protocol 1.3).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.config import KuaiRecConfig
from darlr_jax.data import frames, kuai, statistics, text
from darlr_jax.data.dataset import (
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.data.frames import Column
from darlr_jax.data.tags import one_hot, tag_feature

NUM_TAGS = 31
MAX_TAGS = 4  # an item
LIKED = 0.6  # rows with a label from here on count for the majority tags

BIG = "big_matrix.csv"
SMALL = "small_matrix.csv"
CATEGORIES = "item_categories.csv"
FILES = (BIG, SMALL, CATEGORIES)
SUBFOLDERS = ("data", "KuaiRec*/data")

ORIGIN = "https://kuairec.com"

_TAG = r"(?:[12]?\d|30)"
_MATRIX = (
    Column("user_id", "int", 0, frames.MAX_ID),
    Column("video_id", "int", 0, frames.MAX_ID),
    Column("video_duration", "float", 0, frames.MAX_SINGLE),  # milliseconds
    Column("timestamp", "float", 0, frames.MAX_TIME, missing=True),  # seconds
    Column("watch_ratio", "float", 0, frames.MAX_SINGLE),
)
_CATEGORIES = (
    Column("video_id", "int", 0, frames.MAX_ID),
    Column(
        "feat",
        "text",
        pattern=rf"\[{_TAG}(?:, *{_TAG}){{0,{MAX_TAGS - 1}}}\]",
        example="[3, 12]",
    ),
)


def load(data_dir: str | Path, config: KuaiRecConfig) -> Dataset:
    """Reads `<data_dir>/kuairec/`, laid out as its publishers do.

    Users are numbered by their sorted ids in both matrices, items by those in the table
    of categories; the environment has the users and items of the small matrix.

    Returns:
      The data set. A row without a timestamp is the first of its user (time 0), which
      `ground_truth` tells, as it does of repeated cells.

    Raises:
      DataError: a file is missing or malformed, or knows a video without categories.
    """
    folder = Path(data_dir) / "kuairec"
    paths = {name: frames.find(folder, name, SUBFOLDERS) for name in FILES}
    videos, tags = read_tags(paths[CATEGORIES])
    users, big, small = _read_matrices(paths, videos)
    if config.repeated_rows == "mean":
        big = _average_repeats(big)
    big = _in_time_order(big)
    log, held_out = _to_logs(big, small, len(videos), config)
    truth = _to_truth(held_out, config, paths[SMALL])
    has_tag = one_hot(tags, NUM_TAGS)
    dominated = statistics.dominated_items(has_tag, log.items[log.labels >= LIKED])
    return Dataset(
        name="kuairec",
        log=log,
        held_out=held_out,
        num_logged_users=len(users),
        num_logged_items=len(videos),
        user_features=(),
        item_features=(tag_feature("tags", tags, NUM_TAGS),),
        item_dense=kuai.normed_durations([big, small], len(videos)),
        environment_users=truth.users,
        environment_items=truth.items,
        true_reward=truth.reward,
        item_tags=has_tag[truth.items],
        dominated=dominated[None, truth.items],
        dominated_names=("tags",),
        ground_truth=_describe(truth, big, small, config),
        sources={path.name: text.digest(path) for path in paths.values()},
    )


def read_tags(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the table of categories.

    Returns:
      ids of the videos [Y] int32, sorted, and their tags [Y, 4] int32 in [0, 31), -1
      where there is none.

    Raises:
      DataError: the file is missing or malformed, or a video or a tag is there twice.
    """
    table = frames.read_table(path, _CATEGORIES, origin=ORIGIN)
    lists = [re.findall(r"\d+", feat) for feat in table.feat]
    return kuai.sort_by_video(table.video_id, lists, MAX_TAGS, path=path)


# --- matrices -------------------------------------------------------------------------


def _read_matrices(
    paths: dict[str, Path], videos: np.ndarray
) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    """Sorted raw ids of the users; both matrices, users and videos numbered from 0."""
    big, small = (
        frames.read_table(paths[name], _MATRIX, origin=ORIGIN) for name in (BIG, SMALL)
    )
    users = np.union1d(big.user_id.unique(), small.user_id.unique())
    for name, rows in ((BIG, big), (SMALL, small)):
        rows["user_id"] = np.searchsorted(users, rows.user_id).astype(np.int32)
        rows["video_id"] = frames.positions(
            rows.video_id, videos, path=paths[name], listed_in=CATEGORIES
        )
    return users, big, small


def _average_repeats(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, where its first row was: mean ratio, earliest known time."""
    cells = rows.groupby(["user_id", "video_id"], sort=False, as_index=False)
    return cells.agg(
        {"video_duration": "mean", "timestamp": "min", "watch_ratio": "mean"}
    )


def _in_time_order(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each user in order of time, on the places that they have in the file.

    Sorted here, as fractions of a second are not kept. User by user, so that all rows
    of a file whose users are each in order stay where they are: random batches are
    drawn by row. A row without a timestamp counts as one of time 0.
    """
    users, times = rows.user_id.to_numpy(), _known_times(rows)
    order = np.empty(len(rows), np.int64)
    order[np.argsort(users, kind="stable")] = np.lexsort((times, users))
    return rows.iloc[order]


def _known_times(rows: pd.DataFrame) -> np.ndarray:
    """[N] float64 seconds, 0 where there is no timestamp."""
    return rows.timestamp.fillna(0.0).to_numpy()


def _to_logs(
    big: pd.DataFrame, small: pd.DataFrame, num_items: int, config: KuaiRecConfig
) -> tuple[InteractionLog, InteractionLog]:
    """The rows of the big and of the small matrix, labelled (protocol 1.3)."""
    known = [big, small] if config.label_statistics == "both" else [big]
    rows = pd.concat([rows[["video_id", "watch_ratio"]] for rows in known])
    ratios = rows.groupby("video_id").watch_ratio
    if config.label == "gaussian":
        shift, scale, cap = ratios.mean(), ratios.std(), config.label_cap
    else:
        shift, scale, cap = ratios.min(), ratios.max() - ratios.min(), np.inf
    every = range(num_items)
    scaling = (shift.reindex(every).to_numpy(), scale.reindex(every).to_numpy(), cap)
    return _to_log(big, *scaling, config), _to_log(small, *scaling, config)


def _to_log(
    rows: pd.DataFrame,
    shift: np.ndarray,
    scale: np.ndarray,
    cap: float,
    config: KuaiRecConfig,
) -> InteractionLog:
    """Rows in their order; `shift` and `scale` [Y] standardise the label.

    The label is 0 where there is no scale: a video with one ratio only, or none.
    """
    items = rows.video_id.to_numpy()
    ratio = rows.watch_ratio.to_numpy()
    spread = scale[items]
    labels = np.zeros(len(rows))
    np.divide(ratio - shift[items], spread, out=labels, where=spread > 0)
    return InteractionLog(
        users=rows.user_id.to_numpy(),
        items=items,
        labels=np.minimum(labels, cap).astype(np.float32),
        rewards=np.minimum(ratio, config.reward_cap).astype(np.float32),
        times=_known_times(rows).astype(np.int64),
    )


# --- ground truth ---------------------------------------------------------------------


class _Truth(NamedTuple):
    """The small matrix as a matrix."""

    users: np.ndarray  # [U] int32 logged ids
    items: np.ndarray  # [I] int32 logged ids
    reward: np.ndarray  # [U, I] float32
    missing: int  # cells without a row
    repeated: int  # rows beyond the first of their cell


def _to_truth(held_out: InteractionLog, config: KuaiRecConfig, path: Path) -> _Truth:
    """The capped ratio of every cell; the mean of its rows, should it have several."""
    users, row = np.unique(held_out.users, return_inverse=True)
    items, column = np.unique(held_out.items, return_inverse=True)
    if min(len(users), len(items)) < 2:
        raise DataError(
            f"{path}: expected at least 2 users and 2 videos, found {len(users)} and "
            f"{len(items)}; is the file whole?"
        )
    shape = (len(users), len(items))
    cells = row * len(items) + column
    counts = np.bincount(cells, minlength=len(users) * len(items)).reshape(shape)
    sums = np.bincount(cells, held_out.rewards, counts.size).reshape(shape)
    reward = sums / np.maximum(counts, 1)
    if config.missing_reward == "item_mean":
        item_mean = reward.sum(axis=0) / (counts > 0).sum(axis=0)
        reward = np.where(counts > 0, reward, item_mean)
    missing = int((counts == 0).sum())
    repeated = len(held_out) - (counts.size - missing)
    return _Truth(users, items, reward.astype(np.float32), missing, repeated)


def _describe(
    truth: _Truth, big: pd.DataFrame, small: pd.DataFrame, config: KuaiRecConfig
) -> str:
    """What pays the evaluation, and what had to be repaired, with counts."""
    unseen = "0" if config.missing_reward == "zero" else "the mean of their video"
    parts = [
        f"KuaiRec {SMALL}, watch ratio capped at {config.reward_cap:g}",
        f"{truth.missing} cells without a row pay {unseen}",
    ]
    if truth.repeated:
        parts.append(f"{truth.repeated} rows repeat a cell, which pays their mean")
    for name, rows in ((BIG, big), (SMALL, small)):
        if unknown := rows.timestamp.isna().sum():
            parts.append(
                f"{unknown} rows of {name} without a timestamp count as time 0"
            )
    return "; ".join(parts)
