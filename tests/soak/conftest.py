"""What the runs of these tests are compared with, trained once."""

from __future__ import annotations

import json
import pathlib
import time

import pytest

from tests.soak.processes import Run


@pytest.fixture(scope="session")
def timed(tmp_path_factory) -> tuple[pathlib.Path, float]:
    """A run that nobody has touched, and its seconds but for those of compiling.

    Which others spare: their programs are in the compilation cache then.
    """
    folder = tmp_path_factory.mktemp("untouched")
    started = time.perf_counter()
    Run(folder / "run", folder / "cache").finish()
    seconds = time.perf_counter() - started
    record = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    return folder / "run", seconds - record["compile_seconds"]


@pytest.fixture(scope="session")
def untouched(timed) -> pathlib.Path:
    """The directory of a run that nobody has touched."""
    return timed[0]


@pytest.fixture(scope="session")
def seconds(timed) -> float:
    """How long a run takes."""
    return timed[1]
