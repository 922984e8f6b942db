"""Videos as KuaiRec and KuaiRand both describe them: by tags and durations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from darlr_jax.data import frames
from darlr_jax.data.dataset import DataError


def sort_by_video(
    videos: pd.Series, lists: Sequence[Sequence[str]], width: int, *, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Tags as a matrix, of videos in the order of their ids.

    Args:
      videos: [Y] the column of their ids.
      lists: [Y] the tags of each, at most `width` of them.
      width: of the matrix.
      path: where all this comes from, for the error.

    Returns:
      ids [Y] int32 and tags [Y, width] int32, -1 where there is none.

    Raises:
      DataError: a video is there twice, or has a tag twice.
    """
    ids = frames.distinct(videos, path=path)
    for row, tags in enumerate(lists):
        if len(set(tags)) < len(tags):
            raise DataError(
                f"{path}: line {frames.line_of(path, row)}: expected distinct tags of "
                f"video {ids[row]}, found {', '.join(tags)}"
            )
    rows = [[*map(int, tags), *[-1] * (width - len(tags))] for tags in lists]
    order = np.argsort(ids)
    return ids[order], np.array(rows, np.int32)[order]


def normed_durations(matrices: Sequence[pd.DataFrame], num_items: int) -> np.ndarray:
    """The mean duration of each video, standardised over the videos (protocol 1.3).

    Args:
      matrices: rows with `video_id` in [0, Y) and `video_duration`.
      num_items: Y.

    Returns:
      [Y, 1] float32; 0, the mean, for a video without rows.
    """
    rows = pd.concat([rows[["video_id", "video_duration"]] for rows in matrices])
    duration = rows.groupby("video_id").video_duration.mean()
    spread = duration.std()  # of a sample
    normed = np.zeros((num_items, 1), np.float32)
    if spread > 0:
        normed[duration.index, 0] = (duration - duration.mean()) / spread
    return normed
