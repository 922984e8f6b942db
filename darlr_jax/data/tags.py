"""Tags of items: as lists of their numbers, as a matrix, and as a feature.

Lists are [Y, width] whole numbers in [0, C), -1 where there is none.
"""

from __future__ import annotations

import numpy as np

from darlr_jax.data.dataset import CategoricalFeature


def one_hot(lists: np.ndarray, num_tags: int) -> np.ndarray:
    """[Y, C] bool from lists of tags [Y, width]."""
    return (lists[:, :, None] == np.arange(num_tags)).any(axis=1)


def tag_lists(has_tag: np.ndarray) -> np.ndarray:
    """Rising lists of tags [Y, width], as wide as the longest, from [Y, C] bool."""
    width = max(1, int(has_tag.sum(axis=1).max(initial=0)))
    lists = np.full((len(has_tag), width), -1, np.int32)
    rows, tags = np.nonzero(has_tag)
    slots = np.cumsum(has_tag, axis=1)[rows, tags] - 1
    lists[rows, slots] = tags
    return lists


def tag_feature(name: str, lists: np.ndarray, num_tags: int) -> CategoricalFeature:
    """Tags shifted by one, as code 0 means that there is none."""
    codes = (lists + 1).astype(np.int32)
    return CategoricalFeature(name=name, codes=codes, size=num_tags + 1, padded=True)
