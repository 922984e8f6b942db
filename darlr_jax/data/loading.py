"""From a configuration to a checked data set."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from darlr_jax.config import DatasetConfig, nearest_name
from darlr_jax.data import (
    coat,
    kuairand,
    kuairec,
    movielens,
    own,
    synthetic,
    yahoo,
)
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.data.splits import validation_data
from darlr_jax.data.thinning import thin

# Data sets that are read from their publishers' files, in a folder of their own.
MODULES: dict[str, Any] = {
    "coat": coat,
    "kuairand": kuairand,
    "kuairec": kuairec,
    "movielens": movielens,
    "yahoo": yahoo,
}

_Load = Callable[[str, DatasetConfig], Dataset]
_LOADERS: dict[str, _Load] = {
    "coat": lambda folder, config: coat.load(folder),
    "csv": lambda folder, config: own.load(config.csv, config.completion),
    "kuairand": lambda folder, config: kuairand.load(
        folder, config.kuairand, config.completion
    ),
    "kuairec": lambda folder, config: kuairec.load(folder, config.kuairec),
    "movielens": lambda folder, config: movielens.load(folder, config.completion),
    "synthetic": lambda folder, config: synthetic.generate(config.synthetic),
    "yahoo": lambda folder, config: yahoo.load(folder, config.completion),
}


def load_dataset(config: DatasetConfig, data_dir: str | None = None) -> Dataset:
    """Loads or generates the data set of a configuration, and checks it.

    Args:
      config: `config.name` says which.
      data_dir: the folder that holds one folder a data set; `synthetic` and `csv` need
        none.

    Raises:
      DataError: unknown name, missing or malformed files, contradictory contents.
    """
    if config.name not in _LOADERS:
        hint = nearest_name(config.name, _LOADERS)
        raise DataError(f"dataset.name={config.name!r}: no such data set; {hint}")
    if config.name in MODULES and not data_dir:
        raise DataError(
            f"dataset.name={config.name!r}: its files are needed; give --data_dir=DIR "
            f"where DIR/{config.name} holds them"
        )
    dataset = _LOADERS[config.name](data_dir or "", config)
    try:
        check(dataset)
    except DataError as error:
        where = f" in {data_dir}" if config.name in MODULES else ""
        raise DataError(f"dataset.name={config.name!r}{where}: {error}") from None
    return validation_data(thin(dataset, config.thinning), config.validation)


def data_hash(dataset: Dataset) -> str:
    """One sha256 over the names and digests of all sources: what a run stands on."""
    lines = (f"{digest}  {name}\n" for name, digest in sorted(dataset.sources.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def world_model_hash(dataset: Dataset) -> str:
    """One sha256 over all that a world model may be made of: sources and arrays.

    Other code may read other arrays of the same files. The test matrix is left out: no
    world model sees it.
    """
    seen = dataclasses.replace(dataset, true_reward=np.zeros((0, 0), np.float32))
    digest = hashlib.sha256(data_hash(dataset).encode())
    _feed(digest, seen)
    return digest.hexdigest()


def _feed(digest: hashlib._Hash, value: Any) -> None:
    """Adds a record, its records and arrays, each after its form."""
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).data)
        return
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if not isinstance(value, list | tuple):
        digest.update(f"{value!r}\0".encode())
        return
    digest.update(f"{len(value)} of\0".encode())
    for part in value:
        _feed(digest, part)


# --- integrity ------------------------------------------------------------------------


def check(dataset: Dataset) -> None:
    """Refuses a record that contradicts itself, before anything is computed from it.

    Raises:
      DataError: names the field, and what was expected and found.
    """
    if dataset.true_reward.ndim != 2 or min(dataset.true_reward.shape) < 2:
        raise DataError(
            f"true_reward: expected at least 2 users x 2 items, found shape "
            f"{dataset.true_reward.shape}"
        )
    users, items = dataset.num_logged_users, dataset.num_logged_items
    _check_array("true_reward", dataset.true_reward, np.float32)
    _check_differs("true_reward", dataset.true_reward)
    _check_axis(
        "environment_users", dataset.environment_users, dataset.num_users, users
    )
    _check_axis(
        "environment_items", dataset.environment_items, dataset.num_items, items
    )
    _check_log("log", dataset.log, users, items)
    _check_log("held_out", dataset.held_out, users, items)
    for feature in dataset.user_features:
        _check_feature(feature, users)
    for feature in dataset.item_features:
        _check_feature(feature, items)
    _check_array("item_dense", dataset.item_dense, np.float32, (items, None))
    _check_array("item_tags", dataset.item_tags, np.bool_, (dataset.num_items, None))
    groups = len(dataset.dominated_names)
    _check_array("dominated", dataset.dominated, np.bool_, (groups, dataset.num_items))


def _check_array(
    name: str,
    array: np.ndarray,
    dtype: type[np.generic],
    shape: tuple[int | None, ...] | None = None,
) -> None:
    """Type, finiteness and, where given, shape; None stands for any length."""
    if array.dtype != dtype:
        raise DataError(f"{name}: expected {dtype.__name__}, found {array.dtype}")
    expected = shape or array.shape
    if len(array.shape) != len(expected) or any(
        want not in (None, found)
        for want, found in zip(expected, array.shape, strict=True)
    ):
        raise DataError(f"{name}: expected shape {expected}, found {array.shape}")
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise DataError(
            f"{name}: expected finite numbers, found {array[where]} at {where}"
        )


def _check_differs(name: str, array: np.ndarray) -> None:
    low, high = array.min(), array.max()
    if low == high:
        raise DataError(
            f"{name}: expected rewards that differ, found {low:g} in every cell: "
            "nothing tells one item from another"
        )


def _check_ids(
    name: str, ids: np.ndarray, size: int, shape: tuple[int | None, ...]
) -> None:
    _check_array(name, ids, np.int32, shape)
    outside = ids[(ids < 0) | (ids >= size)]
    if outside.size:
        raise DataError(f"{name}: expected ids in [0, {size}), found {outside[0]}")


def _check_axis(name: str, ids: np.ndarray, length: int, size: int) -> None:
    """The logged ids of the rows or columns of `true_reward`."""
    _check_ids(name, ids, size, (length,))
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(
            f"{name}: expected distinct ids, found {values[counts > 1][0]} twice"
        )


def _check_log(name: str, log: InteractionLog, users: int, items: int) -> None:
    if not len(log):
        raise DataError(f"{name}: holds no interaction")
    rows = (len(log),)
    _check_ids(f"{name}.users", log.users, users, rows)
    _check_ids(f"{name}.items", log.items, items, rows)
    _check_array(f"{name}.labels", log.labels, np.float32, rows)
    _check_array(f"{name}.rewards", log.rewards, np.float32, rows)
    if log.times is not None:
        _check_array(f"{name}.times", log.times, np.int64, rows)


def _check_feature(feature: CategoricalFeature, rows: int) -> None:
    _check_ids(f"feature {feature.name}", feature.codes, feature.size, (rows, None))
