"""Disks that are full: found before training starts, or else named in one line."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import Any

import jax

from darlr_jax.runs.directory import RunError, writing

_ROW = 8 * 2**10  # bytes of metrics.csv and metrics.jsonl a row; DARLR's take 3 KiB
_SLACK = 16 * 2**20  # bytes: curves, JSON files, what storage adds to the arrays
# The storage of checkpoints reports failures of the system in its own words.
_SYSTEM_ERROR = re.compile(r"\[os_error_code='(\d+)'\]")


def require_space(
    directory: pathlib.Path, state: Any, *, checkpoints: int, rows: int
) -> None:
    """Refuses a run whose files will not fit on the disk of its directory.

    Args:
      directory: the run directory.
      state: the pytree of arrays that a checkpoint holds; compressed, so that its size
        is an upper bound.
      checkpoints: how many will be there at once that are not there yet.
      rows: rows of metrics to come.

    Raises:
      RunError: there is less space than that.
    """
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    needed = checkpoints * size + rows * _ROW + _SLACK
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise RunError(
            f"{directory}: {_megabytes(free)} free, but the run needs "
            f"{_megabytes(needed)} ({checkpoints} checkpoints of {_megabytes(size)}, "
            f"{rows:,} rows of metrics); make room or choose another --workdir"
        )


@contextlib.contextmanager
def writing_checkpoint(directory: pathlib.Path) -> Iterator[None]:
    """A save, or the wait for one, whose failure is one line.

    Raises:
      RunError: the system refused to write.
    """
    try:
        with writing(directory):
            yield
    except ValueError as error:
        code = _SYSTEM_ERROR.search(str(error))
        if code is None:
            raise
        with writing(directory):
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _megabytes(size: float) -> str:
    return f"{size / 2**20:,.1f} MiB"
