"""Fitted world models on disk, found again by what they depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging

import darlr_jax
from darlr_jax.config import WorldModelConfig, to_dict
from darlr_jax.files import remove_abandoned
from darlr_jax.runs.arrays import DamagedFileError, load_arrays, save_arrays
from darlr_jax.types import WorldModelTables

# A change of any of these sources makes another world model.
_SOURCES = ("world_model/*.py", "networks/deepfm.py", "networks/base.py")
# And so may another version of what they compute with.
_VERSIONS_OF = ("jax", "jaxlib", "flax", "optax", "numpy")

Report = list[dict[str, float]]


class WorldModelStore:
    """Fitted world models, one file each, and fits under way; nothing is pickled.

    A file that cannot be read is named in a warning and counts as none.
    """

    def __init__(self, directory: str | os.PathLike[str]):
        """Opens the store in `directory`, which is created when something is saved."""
        self._directory = pathlib.Path(directory)

    def path(self, config: WorldModelConfig, data_hash: str) -> pathlib.Path:
        """The file of the model that `config` makes of the data with this hash."""
        return self._directory / f"{fingerprint(config, data_hash)}.npz"

    def fit_path(self, config: WorldModelConfig, data_hash: str) -> pathlib.Path:
        """The file of the same model while it is fitted."""
        return self.path(config, data_hash).with_suffix(".fit.npz")

    def load(
        self, config: WorldModelConfig, data_hash: str
    ) -> tuple[WorldModelTables, Report] | None:
        """The stored tables and report, None where there are none."""
        path, otherwise = self.path(config, data_hash), "the world model is fitted anew"
        stored = _load(path, otherwise)
        if stored is None:
            return None
        arrays, report = stored
        if set(arrays) != set(WorldModelTables._fields):
            logging.warning("%s: of another version, %s", path, otherwise)
            return None
        return WorldModelTables(**arrays), report

    def save(
        self,
        config: WorldModelConfig,
        data_hash: str,
        tables: WorldModelTables,
        report: Report,
    ) -> pathlib.Path:
        """Stores tables and report; what was kept of the fit is no longer needed."""
        path = self.path(config, data_hash)
        remove_abandoned(self._directory)
        save_arrays(path, tables._asdict(), report)
        self.fit_path(config, data_hash).unlink(missing_ok=True)
        return path

    def load_fit(
        self, config: WorldModelConfig, data_hash: str
    ) -> tuple[dict[str, np.ndarray], Report] | None:
        """What `save_fit` stored last, None where there is nothing."""
        return _load(self.fit_path(config, data_hash), "the fit begins anew")

    def save_fit(
        self,
        config: WorldModelConfig,
        data_hash: str,
        arrays: Mapping[str, Any],
        report: Report,
    ) -> None:
        """Stores a fit between two epochs, in place of the one of an epoch before."""
        remove_abandoned(self._directory)
        save_arrays(self.fit_path(config, data_hash), arrays, report)


def _load(
    path: pathlib.Path, otherwise: str
) -> tuple[dict[str, np.ndarray], Any] | None:
    if not path.exists():
        return None
    try:
        return load_arrays(path)
    except DamagedFileError as error:
        logging.warning("%s: damaged, %s (%s)", path, otherwise, error)
        return None


def fingerprint(config: WorldModelConfig, data_hash: str) -> str:
    """SHA-256 of what a fitted world model depends on: data, fields, code, versions."""
    package = pathlib.Path(darlr_jax.__file__).parent
    sources = sorted(path for glob in _SOURCES for path in package.glob(glob))
    digest = hashlib.sha256()
    for part in (
        data_hash,
        json.dumps(to_dict(config), sort_keys=True),
        *(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS_OF),
        *(path.read_text(encoding="utf-8") for path in sources),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
