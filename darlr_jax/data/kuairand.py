"""KuaiRand-Pure: clicks, some on videos shown at random (Gao et al., CIKM 2022).

The world model learns from the two weeks in which an app recommended as usual; it is
tested on the videos inserted at random afterwards. What evaluation pays is a completed
matrix of clicks over all users and videos: the published one, where its file is at
hand, else one completed here from the random exposures (protocol 1.4).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from darlr_jax.config import CompletionConfig, KuaiRandConfig
from darlr_jax.data import frames, kuai, statistics, text
from darlr_jax.data.completion import complete
from darlr_jax.data.dataset import DataError, Dataset, InteractionLog
from darlr_jax.data.frames import Column
from darlr_jax.data.tags import one_hot, tag_feature

MAX_TAGS = 3  # a video

LOG = "log_standard_4_08_to_4_21_pure.csv"
RANDOM_LOG = "log_random_4_22_to_5_08_pure.csv"
USERS = "user_features_pure.csv"
VIDEOS = "video_features_basic_pure.csv"
FILES = (LOG, RANDOM_LOG, USERS, VIDEOS)
SUBFOLDERS = ("data", "KuaiRand-Pure/data")

TRUTH = "kuairand_is_click.csv"  # not in the official archive; used where it is found
TRUTH_SUBFOLDERS = ("MF_results_GT",)

ORIGIN = "https://kuairand.com"
_DORL = "https://github.com/chongminggao/DORL-codes (MF_results_GT)"

_CLICK = "is_click"  # decides the majority tags, whatever is learned
_USER = Column("user_id", "int", 0, frames.MAX_ID)
_VIDEO = Column("video_id", "int", 0, frames.MAX_ID)
_TAG = r"\d{1,4}"
_TAGS = Column(
    "tag",
    "text",
    missing=True,
    pattern=rf"{_TAG}(?:,{_TAG}){{0,{MAX_TAGS - 1}}}",
    example="12,3",
)


def load(
    data_dir: str | Path, config: KuaiRandConfig, completion: CompletionConfig
) -> Dataset:
    """Reads `<data_dir>/kuairand/`, laid out as its publishers do.

    Users and items are numbered by their sorted ids in the feature files; all of them
    make up the environment. The rows of a log are in order of time. Videos without tags
    share a tag of their own, the last column of `item_tags`, as the published exit rule
    lets them match each other; the world model knows nothing of it (protocol 3.4).

    Args:
      data_dir: the folder that holds `kuairand/`.
      config: which signal is learned and paid.
      completion: how the test matrix is made where the published one is absent.

    Raises:
      DataError: a file is missing or malformed, a log knows a user or a video that the
        feature files do not, or the published matrix is not complete.
    """
    folder = Path(data_dir) / "kuairand"
    paths = {name: frames.find(folder, name, SUBFOLDERS) for name in FILES}
    users = read_users(paths[USERS])
    videos, tags = read_videos(paths[VIDEOS])
    rows = _read_log(paths[LOG], users, videos, config)
    random_rows = _read_log(paths[RANDOM_LOG], users, videos, config)
    held_out = _to_log(random_rows, config)
    if truth := _published_truth(folder, config):
        paths[TRUTH] = truth
        true_reward = read_truth(truth, users, videos)
        ground_truth = f"KuaiRand-Pure {TRUTH}, the published completion"
    else:
        true_reward, ground_truth = _complete(held_out, users, videos, completion)
    num_tags = int(tags.max(initial=0)) + 1
    has_tag = one_hot(tags, num_tags)
    clicked = rows.video_id[rows[_CLICK] == 1].to_numpy()
    return Dataset(
        name="kuairand",
        log=_to_log(rows, config),
        held_out=held_out,
        num_logged_users=len(users),
        num_logged_items=len(videos),
        user_features=(),
        item_features=(tag_feature("tags", tags, num_tags),),
        item_dense=kuai.normed_durations([rows, random_rows], len(videos)),
        environment_users=np.arange(len(users), dtype=np.int32),
        environment_items=np.arange(len(videos), dtype=np.int32),
        true_reward=true_reward,
        item_tags=np.column_stack([has_tag, ~has_tag.any(axis=1)]),
        dominated=statistics.dominated_items(has_tag, clicked)[None],
        dominated_names=("tags",),
        ground_truth=ground_truth,
        sources={path.name: text.digest(path) for path in paths.values()},
    )


def read_users(path: Path) -> np.ndarray:
    """The ids of all users [U] int32, sorted.

    Raises:
      DataError: the file is missing or malformed, or a user is there twice.
    """
    table = frames.read_table(path, (_USER,), origin=ORIGIN)
    return np.sort(frames.distinct(table.user_id, path=path))


def read_videos(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads the tags of all videos.

    Returns:
      ids of the videos [I] int32, sorted, and their tags [I, 3] int32, -1 where there
      is none.

    Raises:
      DataError: the file is missing or malformed, or a video or a tag is there twice.
    """
    table = frames.read_table(path, (_VIDEO, _TAGS), origin=ORIGIN)
    lists = [tag.split(",") if tag else [] for tag in table.tag]
    return kuai.sort_by_video(table.video_id, lists, MAX_TAGS, path=path)


def read_truth(path: Path, users: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Reads a completed matrix, one cell a row: `user_id`, `item_id`, `value`.

    Args:
      path: the file; 206.9 million rows for the published one, read block by block.
      users: [U] sorted ids.
      videos: [I] sorted ids.

    Returns:
      [U, I] float32.

    Raises:
      DataError: the file is malformed, or does not hold every cell exactly once.
    """
    value = Column("value", "float", -frames.MAX_SINGLE, frames.MAX_SINGLE)
    columns = (_USER, _VIDEO._replace(name="item_id"), value)
    shape = (len(users), len(videos))
    cells = np.full(len(users) * len(videos), np.nan, np.float32)
    for block in frames.read_blocks(path, columns, origin=_DORL):
        row = frames.positions(block.user_id, users, path=path, listed_in=USERS)
        column = frames.positions(block.item_id, videos, path=path, listed_in=VIDEOS)
        cell = pd.Series(np.ravel_multi_index((row, column), shape), block.index)
        for again in cell.index[cell.duplicated() | ~np.isnan(cells[cell])][:1]:
            raise DataError(
                f"{path}: line {frames.line_of(path, again)}: expected every user with "
                f"every video exactly once, found user {block.user_id[again]} with "
                f"video {block.item_id[again]} again"
            )
        cells[cell] = block.value
    missing = np.flatnonzero(np.isnan(cells))
    for user, video in np.column_stack(np.unravel_index(missing[:1], shape)):
        raise DataError(
            f"{path}: expected each of the {cells.size} cells ({len(users)} users x "
            f"{len(videos)} videos) in one row, found {len(missing)} cells without "
            f"any, the first of user {users[user]} and video {videos[video]}"
        )
    return cells.reshape(shape)


def _read_log(
    path: Path, users: np.ndarray, videos: np.ndarray, config: KuaiRandConfig
) -> pd.DataFrame:
    """A log in order of time, users and videos numbered from 0.

    Sorted here, as the finer clock of the file (milliseconds) is not kept.
    """
    signals = sorted({_CLICK, config.label})
    columns = (
        _USER,
        _VIDEO,
        Column("time_ms", "int", 0),
        Column("duration_ms", "float", 0, frames.MAX_SINGLE),
        *(Column(signal, "int", 0, 1) for signal in signals),
    )
    rows = frames.read_table(path, columns, origin=ORIGIN)
    rows = rows.rename(columns={"duration_ms": "video_duration"})
    for name, ids, file in (("user_id", users, USERS), ("video_id", videos, VIDEOS)):
        rows[name] = frames.positions(rows[name], ids, path=path, listed_in=file)
    return rows.sort_values("time_ms", kind="stable")


def _to_log(rows: pd.DataFrame, config: KuaiRandConfig) -> InteractionLog:
    """What the world model predicts is what the evaluation pays: the signal, 0 or 1."""
    signal = rows[config.label].to_numpy().astype(np.float32)
    return InteractionLog(
        users=rows.user_id.to_numpy(),
        items=rows.video_id.to_numpy(),
        labels=signal,
        rewards=signal,
        times=rows.time_ms.to_numpy() // 1000,
    )


def _published_truth(folder: Path, config: KuaiRandConfig) -> Path | None:
    """Where the published matrix lies, if it is there and of the signal asked for."""
    path = frames.find(folder, TRUTH, TRUTH_SUBFOLDERS)
    return path if config.label == _CLICK and path.exists() else None


def _complete(
    exposed: InteractionLog,
    users: np.ndarray,
    videos: np.ndarray,
    config: CompletionConfig,
) -> tuple[np.ndarray, str]:
    """The matrix [U, I] completed from random exposures, and its description."""
    completed = complete(
        exposed.users,
        exposed.items,
        exposed.rewards,
        np.ones(len(exposed), np.float32),
        (len(users), len(videos)),
        config,
        low=0.0,
        high=1.0,
    )
    return completed.matrix, f"KuaiRand-Pure {RANDOM_LOG}, {completed.description}"
