"""Files opened, and those of numbers read, with errors that say where to look."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from darlr_jax.data.dataset import DataError

DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)  # of a compressed file


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal digest of a file's bytes."""
    require_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def user_path(name: str) -> Path:
    """The path that a user names, who may write `~` for a home folder.

    Raises:
      DataError: nobody knows that home folder.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError:
        raise DataError(f"{name}: there is no such home folder") from None


def require_file(path: Path) -> None:
    """Refuses a pipe or a device: it would be waited for, or be read without end.

    What is missing or a folder fails by itself, when it is opened.

    Raises:
      DataError: `path` is such a thing.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(
            f"{path}: is no ordinary file; files are read more than once, so copy what "
            "it holds to one"
        )


@contextlib.contextmanager
def opened(path: Path, origin: str) -> Iterator[Any]:
    """The bytes of a file; one whose name ends in .gz is decompressed.

    Args:
      path: the file.
      origin: who publishes the file; told to whoever lacks it.

    Raises:
      DataError: the file is missing, unreadable or no ordinary one, or turns out to be
        damaged or no text while it is read.
    """
    require_file(path)
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; it comes from {origin} and belongs at this path"
        ) from None
    except DAMAGE:
        raise DataError(
            f"{path}: is a damaged or truncated gzip file; fetch it again from {origin}"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is no text file: found bytes that are not {error.encoding}; save "
            "it as text in that encoding (a name that ends in .gz: compressed by gzip)"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_integers(
    path: Path, shape: tuple[int, int], *, low: int, high: int, origin: str
) -> np.ndarray:
    """Reads a matrix of small whole numbers, one row a line, separated by spaces.

    A byte-order mark, Windows line ends, trailing spaces and empty lines at the end are
    harmless; every other departure is refused. A file whose name ends in .gz is
    decompressed.

    Args:
      path: the file.
      shape: the rows and columns that it must have.
      low: the smallest value allowed.
      high: the largest value allowed.
      origin: who publishes the file; told to whoever lacks it.

    Returns:
      [rows, columns] int32.

    Raises:
      DataError: the file is missing, unreadable, empty, truncated, damaged or of
        another shape, or a value is none of `low..high`; names the file, the line and
        the column.
    """
    rows = _read_rows(path, origin)
    _check_shape(path, rows, shape)
    values = {str(value): value for value in range(low, high + 1)}
    try:
        return np.array([[values[text] for text in row] for row in rows], np.int32)
    except KeyError:
        line, column, text = _first_unknown(rows, values)
        raise DataError(
            f"{path}: line {line}, column {column}: expected a whole number from {low} "
            f"to {high}, found {text[:20]!r}"
        ) from None


def _read_rows(path: Path, origin: str) -> list[list[str]]:
    """The fields of each line, without empty lines at the end."""
    with opened(path, origin) as file:
        # Universal newlines, as `str.splitlines` would also split at form feeds.
        lines = io.TextIOWrapper(file, encoding="utf-8-sig")
        rows = [line.split() for line in lines]
    while rows and not rows[-1]:
        rows.pop()
    if not rows:
        raise DataError(f"{path}: is empty; expected lines of numbers")
    return rows


def _check_shape(path: Path, rows: list[list[str]], shape: tuple[int, int]) -> None:
    """Tells a ragged row from a matrix that is regular but not the expected one."""
    height, width = shape
    widths = [len(row) for row in rows]
    if len(set(widths)) > 1:
        line = next(n for n, found in enumerate(widths, start=1) if found != width)
        hint = "; the file ends here: is it truncated?" if line == len(rows) else ""
        raise DataError(
            f"{path}: line {line}: expected {width} numbers, found "
            f"{widths[line - 1]}{hint}"
        )
    found = (len(rows), widths[0])
    if found != shape:
        short = found[0] < height and found[1] == width
        hint = f"; the file ends at line {found[0]}: is it truncated?" if short else ""
        raise DataError(
            f"{path}: expected {height} x {width} numbers, found {found[0]} x "
            f"{found[1]}{hint}"
        )


def _first_unknown(
    rows: list[list[str]], values: dict[str, int]
) -> tuple[int, int, str]:
    """Line, column (both from 1) and text of the first field that is no key."""
    return next(
        (line, column, text)
        for line, row in enumerate(rows, start=1)
        for column, text in enumerate(row, start=1)
        if text not in values
    )
