"""Delimited text files as data frames, with errors that say where to look.

pandas' C engine reads blocks of rows with typed columns. It skips what it does not
know, fills rows that are too short and says little of where trouble is: so each block
is checked, and at any trouble a second, slow reading finds the first cell at fault.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pandas as pd

from darlr_jax.data import text
from darlr_jax.data.dataset import DataError

MAX_ID = 2**31 - 1  # ids are int32
MAX_TIME = 2.0**53  # a larger float is no longer exact to the second
MAX_SINGLE = float(np.finfo(np.float32).max)  # of what is kept in single precision
BLOCK_ROWS = 1 << 20

_LARGEST = 2**62  # beyond it, whole numbers may be read as texts
_LARGEST_FLOAT = float(np.finfo(np.float64).max)

_MISSING = ("", "NaN", "nan", "NULL", "null")  # texts of a missing number
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
_UNIT = "\x1f"  # takes the place of a separator of several characters

_BEYOND_WORDS = 1e30  # a bound that nobody needs to be told


class Column(NamedTuple):
    """What a column of a file must hold."""

    name: str
    kind: Literal["int", "float", "text"]
    low: float = -math.inf
    high: float = math.inf
    missing: bool = False  # a number may be missing (then NaN), a text empty
    pattern: str = ""  # regular expression for the whole of a text that is not empty
    example: str = ""  # a text that matches, for people

    @property
    def dtype(self) -> Literal["int32", "int64", "float64", "str"]:
        """int32 where all of `low..high` fits in, otherwise int64; float64; str.

        A whole number that may be missing is a float64, too, for the sake of its NaN.
        """
        if self.kind == "text":
            return "str"
        if self.kind == "float" or self.may_be_nan:
            return "float64"
        return "int32" if max(-1 - self.low, self.high) < 2**31 else "int64"

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and the greatest number accepted, both finite."""
        largest = _LARGEST_FLOAT if self.kind == "float" else _LARGEST
        return max(self.low, -largest), min(self.high, largest)

    @property
    def may_be_nan(self) -> bool:
        """Whether a missing cell is read as NaN."""
        return self.missing and self.kind != "text"

    def accepts(self, text: str) -> bool:
        """Whether a cell with this text is one of this column."""
        if self.kind == "text":
            if not text:
                return self.missing
            return not self.pattern or bool(re.fullmatch(self.pattern, text))
        if text in _MISSING:
            return self.missing
        if not _NUMBER.fullmatch(text):
            return False
        value = float(text)
        low, high = self.bounds
        return low <= value <= high and (self.kind == "float" or value.is_integer())

    def describe(self) -> str:
        """What is expected, in words."""
        noun = {"int": "a whole number", "float": "a number", "text": "a text"}
        bounds = (("at least", self.low), ("at most", self.high))
        limits = [f"{how} {n:.12g}" for how, n in bounds if abs(n) < _BEYOND_WORDS]
        words = noun[self.kind]
        words += " of " + " and ".join(limits) if limits else ""
        words += f" like {self.example!r}" if self.example else ""
        return words + (" or nothing" if self.missing else "")


class Layout(NamedTuple):
    """How a file is divided into rows and fields."""

    separator: str = ","  # of fields, one character or, without quoting, several
    has_header: bool = True  # whether its first line names its columns
    encoding: str = "utf-8-sig"


COMMAS = Layout()


class _Table(NamedTuple):
    """A file, and how it is to be read."""

    path: Path
    columns: Sequence[Column]
    origin: str
    layout: Layout

    @property
    def delimiter(self) -> str:
        """The one character that separates fields once the file is open."""
        separator = self.layout.separator
        return separator if len(separator.encode()) == 1 else _UNIT

    @property
    def quoting(self) -> Literal[0, 3]:
        """Whether `"` may enclose fields: with no separator of several characters."""
        return csv.QUOTE_NONE if self.delimiter == _UNIT else csv.QUOTE_MINIMAL


def find(folder: Path, name: str, subfolders: Sequence[str] = ()) -> Path:
    """Where the file `name` lies: in `folder`, or as deep as its publisher packs it.

    Args:
      folder: that of the data set.
      name: the official name; a compressed file `name`.gz serves as well.
      subfolders: patterns of folders within `folder`, as `KuaiRec*/data`.

    Returns:
      The first path that exists, else `folder / name`, for the error that follows.

    Raises:
      DataError: the system refuses to look there, as where the path is too long.
    """
    patterns = (name, *(f"{subfolder}/{name}" for subfolder in subfolders))
    found = (
        path
        for pattern in patterns
        for suffix in ("", ".gz")
        for path in sorted(folder.glob(pattern + suffix))
    )
    try:
        return next(found, folder / name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None


def line_of(path: Path, row: int, layout: Layout = COMMAS) -> int:
    """The line, as an editor counts, of a row that `read_table` returned.

    Blank lines and line ends in quotes make the two differ, so the file is read again:
    for errors alone.

    Args:
      path: the file.
      row: the position of the row in the table, from 0.
      layout: as for `read_table`.
    """
    rows = _rows(_Table(path, (), "", layout))
    return next(itertools.islice(rows, row + layout.has_header, None))[0]


def distinct(values: pd.Series, *, path: Path, layout: Layout = COMMAS) -> np.ndarray:
    """The raw ids of a column, as read, of the file at `path`; none may repeat."""
    for row in values.index.to_numpy()[values.duplicated()][:1]:
        raise DataError(
            f"{path}: line {line_of(path, row, layout)}, column {values.name!r}: "
            f"expected every id once, found {values[row]} again"
        )
    return values.to_numpy()


def positions(
    values: pd.Series,
    ids: np.ndarray,
    *,
    path: Path,
    listed_in: str,
    layout: Layout = COMMAS,
) -> np.ndarray:
    """Where each of the raw ids of a column stands in `ids`.

    Args:
      values: [N] a column, as read, of the file at `path`.
      ids: [n] sorted, without repetition.
      path: for the error.
      listed_in: what the ids come from, for the error.
      layout: of the file.

    Returns:
      [N] int32 in [0, n).

    Raises:
      DataError: a value is none of `ids`.
    """
    raw = values.to_numpy()
    found = np.searchsorted(ids, raw).astype(np.int32)
    known = found < len(ids)
    known[known] = ids[found[known]] == raw[known]
    for row in values.index.to_numpy()[~known][:1]:
        raise DataError(
            f"{path}: line {line_of(path, row, layout)}, column {values.name!r}: "
            f"expected an id of {listed_in}, found {values[row]}"
        )
    return found


def read_table(
    path: Path,
    columns: Sequence[Column],
    *,
    origin: str,
    layout: Layout = COMMAS,
) -> pd.DataFrame:
    """Reads some columns of a delimited text file.

    A byte-order mark, Windows line ends, blank lines, quoted fields and other columns
    are harmless. A file whose name ends in .gz is decompressed.

    Args:
      path: the file.
      columns: what is read, and what it must be; of a file without a header, every
        column it has, in their order.
      origin: who publishes the file; told to whoever lacks it.
      layout: how its rows and fields are told apart.

    Returns:
      The columns in the order asked for, of the types of `Column.dtype`; at least one
      row, in the order of the file.

    Raises:
      DataError: the file is missing, unreadable, empty, truncated, damaged or no text;
        a column is missing or there twice; a row has too few or too many fields; a cell
        is no such number, out of range, infinite or empty. Names the file and, where
        there is one, the line and the column.
    """
    blocks = read_blocks(path, columns, origin=origin, layout=layout)
    return pd.concat(list(blocks), ignore_index=True)


def read_blocks(
    path: Path,
    columns: Sequence[Column],
    *,
    origin: str,
    layout: Layout = COMMAS,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[pd.DataFrame]:
    """`read_table` block by block, for files that are larger than the memory.

    Whether all rows are of the right length is known after the last block only: read to
    the end before relying on any.
    """
    if not layout.separator or set(layout.separator) & set('"\r\n'):
        raise DataError(
            f"{path}: {layout.separator!r} cannot separate the fields of a row"
        )
    table = _Table(path, columns, origin, layout)
    width, positions = _find_columns(table)
    rows, trouble = 0, ""
    with _open(table, width) as stream:
        try:
            for block in _parse(table, positions, stream, block_rows):
                rows += len(block)
                yield block
        except (*text.DAMAGE, OSError, ValueError, OverflowError) as error:
            trouble = str(error).partition("\n")[0]
    if trouble or not stream.regular:
        # Quotes and blank lines lead here, too: then nothing is at fault.
        _raise_first_fault(table, width, positions, good_cells=rows)
    if trouble:
        raise DataError(f"{path}: cannot be read as a table: {trouble}")
    if not rows:
        raise DataError(f"{path}: is empty; expected at least one row")


# --- the fast reading -----------------------------------------------------------------


class _Stream(io.RawIOBase):
    """The bytes of a file, looking for what pandas passes over in silence."""

    def __init__(self, file: BinaryIO, table: _Table, width: int) -> None:
        self._file = file
        self._row = table.delimiter.encode() * (width - 1) + b"\n"  # of one row
        # A row with quotes has as many separators, and yet too few fields; and NUL.
        marks = {*self._row, 0, *(b'"' if table.quoting == csv.QUOTE_MINIMAL else b"")}
        self._others = bytes(set(range(256)) - marks)
        self._place = 0  # in the marks of a row
        self._as_expected = True

    @property
    def regular(self) -> bool:
        """Whether every line had as many separators as a row has, and no quotes."""
        return self._as_expected and self._place in (0, len(self._row) - 1)

    def readable(self) -> bool:
        """True, as `io.RawIOBase` wants it said."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` as far as the file goes and returns how far that is."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        marks = data.translate(None, self._others)
        end = self._place + len(marks)
        expected = self._row * (end // len(self._row) + 1)
        self._as_expected &= marks == expected[self._place : end]
        self._place = end % len(self._row)
        return len(data)

    def text(self, encoding: str) -> io.TextIOWrapper:
        """The decoded text, with its line ends as they are."""
        buffered = io.BufferedReader(self, 1 << 20)
        return io.TextIOWrapper(buffered, encoding=encoding, newline="")


@contextlib.contextmanager
def _open(table: _Table, width: int = 1) -> Iterator[_Stream]:
    """Opens, decompresses, and makes the separator a single character."""
    separator = table.layout.separator
    with text.opened(table.path, table.origin) as file:
        if table.delimiter != separator:
            content = file.read().replace(separator.encode(), _UNIT.encode())
            file = io.BytesIO(content)
        yield _Stream(file, table, width)


def _parse(
    table: _Table, positions: dict[str, int], stream: _Stream, block_rows: int
) -> Iterator[pd.DataFrame]:
    """The blocks; any exception means that something in the file is at fault."""
    names = sorted(positions, key=positions.__getitem__)
    reader = pd.read_csv(
        stream.text(table.layout.encoding),
        engine="c",
        sep=table.delimiter,
        quoting=table.quoting,
        header=0 if table.layout.has_header else None,
        names=names,
        usecols=[positions[name] for name in names],
        index_col=False,
        # Numbers are inferred, as a given type would turn "True" into 1 in silence.
        dtype={c.name: "str" for c in table.columns if c.kind == "text"},
        keep_default_na=False,
        na_values={c.name: _MISSING for c in table.columns if c.may_be_nan},
        low_memory=False,  # a block is small, and has one type a column
        chunksize=block_rows,
    )
    with reader:
        for block in reader:
            if block.empty:
                return
            values = {c.name: _checked(block[c.name], c) for c in table.columns}
            yield pd.DataFrame(values)


def _checked(values: pd.Series, column: Column) -> pd.Series:
    """`values` as the column's type.

    Raises:
      ValueError: they are not of it, or some are out of range.
    """
    if column.kind == "float" and values.dtype.kind == "O":
        values = _as_floats(values, column)
    if column.kind == "text":
        texts = values[values != ""] if column.missing else values
        valid = bool(texts.str.fullmatch(column.pattern or ".+", flags=re.DOTALL).all())
    elif values.dtype.kind not in "iuf":
        valid = False
    else:
        present = (values.dropna() if column.missing else values).to_numpy()
        low, high = column.bounds
        inside = (low <= present) & (present <= high)
        if column.kind == "int":
            inside &= present == np.floor(present)
        valid = bool(inside.all())
    if not valid:
        raise ValueError(f"column {column.name!r}: expected {column.describe()}")
    return values.astype(column.dtype)


def _as_floats(values: pd.Series, column: Column) -> pd.Series:
    """What pandas did not take for numbers, as float64 where all of it is.

    Whole numbers beyond 64 bits are objects or texts to it.
    """
    texts = values.dropna().astype("str")
    if not all(map(column.accepts, texts)):
        return values
    return texts.map(float).astype("float64").reindex(values.index)


# --- the slow reading -----------------------------------------------------------------


def _rows(table: _Table) -> Iterator[tuple[int, list[str]]]:
    """(line, as an editor counts; fields) of every row that is not blank."""
    with _open(table) as stream:
        lines = stream.text(table.layout.encoding)
        reader = csv.reader(
            lines, delimiter=table.delimiter, quoting=table.quoting, strict=True
        )
        try:
            for row in reader:
                joined = "".join(row)
                if "\0" in joined:  # would hide the rest of a field from pandas
                    raise csv.Error("found a NUL character")
                if len(row) > 1 or joined.strip():
                    yield reader.line_num, row
        except csv.Error as error:
            raise DataError(
                f"{table.path}: line {reader.line_num}: cannot be split into fields: "
                f"{error}"
            ) from None


def _find_columns(table: _Table) -> tuple[int, dict[str, int]]:
    """The number of fields a row, and where those asked for are."""
    header = [column.name for column in table.columns]
    if table.layout.has_header:
        _, header = next(_rows(table), (0, []))
        if not header:
            raise DataError(f"{table.path}: is empty; expected a line of column names")
    found = [name.strip() for name in header]
    for column in table.columns:
        if found.count(column.name) != 1:
            times = "twice" if column.name in found else "not"
            raise DataError(
                f"{table.path}: line 1: expected a column {column.name!r}, which is "
                f"{times} among {', '.join(found)[:200]}"
            )
    return len(found), {c.name: found.index(c.name) for c in table.columns}


def _raise_first_fault(
    table: _Table, width: int, positions: dict[str, int], good_cells: int
) -> None:
    """Raises DataError at the first row or cell at fault, if there is any.

    The cells of the first `good_cells` rows are known to be good and not checked again,
    as that would take minutes; how many there are is not known of any row.
    """
    rows = _rows(table)
    if table.layout.has_header:
        next(rows)
    for index, (line, row) in enumerate(rows):
        if len(row) != width:
            hint = "" if next(rows, None) else "; the file ends here: is it truncated?"
            raise DataError(
                f"{table.path}: line {line}: expected {width} fields, found "
                f"{len(row)}{hint}"
            )
        if index < good_cells:
            continue
        for column in table.columns:
            text = row[positions[column.name]]
            if not column.accepts(text):
                raise DataError(
                    f"{table.path}: line {line}, column {column.name!r}: expected "
                    f"{column.describe()}, found {text[:20]!r}"
                )
