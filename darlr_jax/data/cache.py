"""Prepared data sets on disk, opened at once: reading 12.5 M rows again takes a while.

A data set is a folder: one `.npy` file an array, mapped into memory and compared with
its checksum, and `dataset.json` with all else and a checksum of its own. The walk over
a record follows its fields, so a new field of `Dataset` needs nothing here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import tokenize
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

import darlr_jax
from darlr_jax.data import text
from darlr_jax.data.dataset import (
    CategoricalFeature,
    DataError,
    Dataset,
    InteractionLog,
)
from darlr_jax.files import remove_abandoned, replacing

FORMAT = 2  # of the folder; another one is not read

_DESCRIPTION = "dataset.json"
_RECORDS: dict[str, Any] = {
    record.__name__: record for record in (Dataset, InteractionLog, CategoricalFeature)
}
# What a damaged folder raises: JSON, other fields, and headers of `.npy` files.
_DAMAGE = (OSError, ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError)
_SETTLED = 2 * 10**9  # nanoseconds; a younger file may change and keep its time


def key(
    name: str,
    config_fields: Mapping[str, Any],
    sources: Mapping[str, str],
    version: int,
) -> str:
    """The sha256 of all that decides what a prepared data set holds.

    Args:
      name: the data set.
      config_fields: name -> value of every configuration field that it depends on.
      sources: file name -> sha256 of every file that is read.
      version: of the code that prepares it; another one prepares it differently.
    """
    recipe = {
        "name": name,
        "config": dict(config_fields),
        "sources": dict(sources),
        "version": version,
    }
    content = json.dumps(recipe, sort_keys=True, allow_nan=False)
    return hashlib.sha256(content.encode()).hexdigest()


class DatasetCache:
    """Prepared data sets, one folder a key."""

    def __init__(self, directory: str | Path):
        """Names the folder `directory`; `save` creates it."""
        self._directory = Path(directory)

    def load(self, key: str) -> Dataset | None:
        """The data set saved under `key`, None without one.

        Its arrays are read-only views of the files. One that is damaged, or was saved
        by another version of the package, is none either; a warning names it then.
        """
        folder = self._directory / key
        if not folder.exists():
            return None
        try:
            return _Reader(folder).read()
        except _DAMAGE as error:
            _warn(folder, "no whole data set of this version; it is made anew", error)
            return None

    def save(self, key: str, dataset: Dataset) -> Path:
        """Saves `dataset` under `key`, in place of what is there.

        Returns:
          The folder; it appears when everything is in it.

        Raises:
          DataError: it cannot be written.
        """
        folder = self._directory / key
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self._directory)  # it can be a gigabyte each
            with replacing(folder) as temporary:
                temporary.mkdir()
                _Writer(temporary).write(dataset)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{folder}: cannot be written ({reason})") from None
        return folder


def _warn(path: Path, fault: str, error: Exception) -> None:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    logging.warning("%s: %s (%s)", path, fault, reason)


def _to_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content


# --- one folder -----------------------------------------------------------------------


class _Writer:
    """Writes one data set to an empty folder."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[int, str] = {}  # identity -> file: one array, one file

    def write(self, dataset: Dataset) -> None:
        description = {
            "format": FORMAT,
            "versions": {"darlr_jax": darlr_jax.__version__, "numpy": np.__version__},
            "dataset": self._encode(dataset, "dataset"),
        }
        path = self._folder / _DESCRIPTION
        sealed = {**description, "crc32": _text_checksum(description)}
        path.write_text(_to_json(sealed), encoding="utf-8")

    def _encode(self, value: Any, name: str) -> Any:
        """What JSON holds of a `value`, which stands at `name` in the data set."""
        if dataclasses.is_dataclass(value):
            fields = {
                field.name: self._encode(
                    getattr(value, field.name), f"{name}.{field.name}"
                )
                for field in dataclasses.fields(value)
            }
            return {"record": type(value).__name__, "fields": fields}
        if isinstance(value, np.ndarray):
            return self._encode_array(value, f"{name}.npy")
        if isinstance(value, tuple):
            items = enumerate(value)
            return [self._encode(item, f"{name}.{place}") for place, item in items]
        if isinstance(value, dict):
            return {"mapping": value}
        return value.item() if isinstance(value, np.generic) else value

    def _encode_array(self, array: np.ndarray, file: str) -> dict[str, Any]:
        if id(array) not in self._files:
            np.save(self._folder / file, array, allow_pickle=False)
            self._files[id(array)] = file
        return {
            "array": self._files[id(array)],
            "dtype": array.dtype.str,
            "shape": list(array.shape),
            "crc32": _checksum(self._folder / self._files[id(array)]),
        }


class _Reader:
    """Opens the data set in a folder; any damage is an exception."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._arrays: dict[str, np.ndarray] = {}

    def read(self) -> Dataset:
        description = _read_json(self._folder / _DESCRIPTION)
        if description["format"] != FORMAT:
            raise ValueError(f"format {description['format']}, expected {FORMAT}")
        if description.pop("crc32") != _text_checksum(description):
            raise ValueError(f"{_DESCRIPTION} has changed")
        dataset = self._decode(description["dataset"])
        if not isinstance(dataset, Dataset):
            raise ValueError(f"{_DESCRIPTION} describes no data set")
        return dataset

    def _decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self._decode(item) for item in value)
        if not isinstance(value, dict):
            return value
        if "mapping" in value:
            return value["mapping"]
        if "array" in value:
            return self._decode_array(**value)
        record, fields = _RECORDS[value["record"]], value["fields"]
        expected = {field.name for field in dataclasses.fields(record)}
        if set(fields) != expected:
            differing = ", ".join(sorted(expected ^ set(fields)))
            raise ValueError(f"{record.__name__} has other fields: {differing}")
        return record(**{name: self._decode(item) for name, item in fields.items()})

    def _decode_array(
        self, array: str, dtype: str, shape: list[int], crc32: int
    ) -> np.ndarray:
        if array not in self._arrays:
            path = self._folder / Path(array).name
            if _checksum(path) != crc32:
                raise ValueError(f"{array} has changed")
            self._arrays[array] = _map(path)
        found = self._arrays[array]
        if (found.dtype.str, list(found.shape)) != (dtype, shape):
            raise ValueError(f"{array} holds {found.dtype} {found.shape}")
        return found


def _checksum(path: Path) -> int:
    """Of a file that is not empty; a gigabyte takes a fifth of a second."""
    return zlib.crc32(np.memmap(path, np.uint8, mode="r").data)


def _text_checksum(description: Mapping[str, Any]) -> int:
    return zlib.crc32(_to_json(description).encode())


def _map(path: Path) -> np.ndarray:
    """The array in a `.npy` file, read-only; never unpickled."""
    array = np.lib.format.open_memmap(path, mode="r")
    if array.offset + array.nbytes != path.stat().st_size:
        raise ValueError(f"{path.name} is too short or too long")
    return array.view(np.ndarray)


# --- sources --------------------------------------------------------------------------


class SourceDigests:
    """The sha256 of source files, remembered by path, size and time of last change.

    Hashing a gigabyte at each start takes seconds; a file that has neither another size
    nor another time is taken to be the same. Writers at the same time may forget what
    the others remember, which costs them only time.
    """

    def __init__(self, path: str | Path):
        """Names the JSON file `path`, which remembers; `digest` creates it."""
        self._path = Path(path)

    def digest(self, file: Path) -> str:
        """The sha256 of the bytes of `file`.

        Raises:
          DataError: it cannot be read.
        """
        try:
            identity = _identify(file)
            match self._recall().get(str(file.resolve())):
                case [*known, str(sha256)] if known == identity:
                    return sha256
            sha256 = text.digest(file)
            unchanged = _identify(file) == identity
        except OSError as error:
            raise DataError(f"{file}: cannot be read ({error.strerror})") from None
        # A change within the resolution of the clock would not show.
        if unchanged and time.time_ns() - identity[1] > _SETTLED:
            self._remember({str(file.resolve()): [*identity, sha256]})
        return sha256

    def _recall(self) -> dict[str, Any]:
        """Path -> [size, time of change, sha256]; empty where nothing is remembered."""
        try:
            return _read_json(self._path)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            _warn(self._path, "no digests; files are hashed again", error)
            return {}

    def _remember(self, entry: Mapping[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            content = _to_json({**self._recall(), **entry})
            with replacing(self._path) as temporary:
                temporary.write_text(content, encoding="utf-8")
        except OSError as error:
            _warn(self._path, "cannot be written", error)


def _identify(file: Path) -> list[int]:
    """Size in bytes and time of the last change in nanoseconds."""
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]
