"""Fitted world models on disk, found again by what they depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import pathlib
import zipfile
from typing import Any

import numpy as np
from absl import logging

import darlr_jax
from darlr_jax.config import WorldModelConfig, to_dict
from darlr_jax.files import replacing
from darlr_jax.types import WorldModelTables

# A change of any of these sources makes another world model.
_SOURCES = ("world_model/*.py", "networks/deepfm.py", "networks/base.py")

Report = list[dict[str, float]]


class WorldModelStore:
    """Tables and reports of fitted world models, one file each; nothing is pickled."""

    def __init__(self, directory: str | os.PathLike[str]):
        """Opens the store in `directory`, which is created when something is saved."""
        self._directory = pathlib.Path(directory)

    def path(self, config: WorldModelConfig, data_hash: str) -> pathlib.Path:
        """The file of the model that `config` makes of the data with this hash."""
        return self._directory / f"{fingerprint(config, data_hash)}.npz"

    def load(
        self, config: WorldModelConfig, data_hash: str
    ) -> tuple[WorldModelTables, Report] | None:
        """The stored tables and report, None where there are none.

        A file that cannot be read is named in a warning and counts as none.
        """
        path = self.path(config, data_hash)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                tables = WorldModelTables(
                    *(stored[f] for f in WorldModelTables._fields)
                )
                return tables, json.loads(str(stored["report"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            logging.warning(
                "%s: damaged, the world model is fitted anew (%s)", path, error
            )
            return None

    def save(
        self,
        config: WorldModelConfig,
        data_hash: str,
        tables: WorldModelTables,
        report: Report,
    ) -> pathlib.Path:
        """Stores tables and report; the file is complete or absent."""
        path = self.path(config, data_hash)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        arrays: dict[str, Any] = {k: np.asarray(v) for k, v in tables._asdict().items()}
        with replacing(path) as temporary, open(temporary, "wb") as stream:
            np.savez(stream, report=np.asarray(json.dumps(report)), **arrays)
        return path


def fingerprint(config: WorldModelConfig, data_hash: str) -> str:
    """SHA-256 of all that a fitted world model depends on: data, fields, code, jax."""
    package = pathlib.Path(darlr_jax.__file__).parent
    sources = sorted(path for glob in _SOURCES for path in package.glob(glob))
    digest = hashlib.sha256()
    for part in (
        data_hash,
        json.dumps(to_dict(config), sort_keys=True),
        importlib.metadata.version("jax"),
        *(path.read_text(encoding="utf-8") for path in sources),
    ):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()
