"""What can happen to a file, drawn at random, and the judge of what comes of it.

What comes of it must be a result, which the caller compares with one that was worked
out in another way, or one of the project's errors, in one line that names the place.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import os
import pathlib
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

TIME_LIMIT = 20.0  # seconds; what takes longer hangs
NOBODY = 65534  # a user who may read nothing of ours

# Numbers as they are mistyped, half written, or meant by other programs.
ODD_CELLS = (
    *(b"", b" ", b"nan", b"NaN", b"inf", b"-inf", b"-1", b"1e400", b"1e-400", b"1.5"),
    *(b"0x10", b"1_0", b"TRUE", b"--1", b"1e", b"1.2.3", b"99999999999999999999"),
    *(b"\xef\xbc\x91", b"1,5", b'"1', b'"1"', b"+1", b"01", b"1\x00", b"None", b"1 1"),
    *(b"9223372036854775808", b"2147483648", b"-0", b"1e0", b"NULL", b"#", b"="),
)
SEPARATORS = (b",", b"\t", b" ", b";", b"::", b"|")

Random = np.random.Generator
Change = Callable[[bytes, Random], bytes]


# --- of bytes -------------------------------------------------------------------------


def truncate(content: bytes, rng: Random) -> bytes:
    return content[: rng.integers(len(content) + 1)]


def flip_bits(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 4)):
        changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def zero_a_block(content: bytes, rng: Random) -> bytes:
    """As storage does that lost a block."""
    start = rng.integers(len(content))
    end = min(len(content), start + int(rng.integers(1, 4097)))
    return content[:start] + bytes(end - start) + content[end:]


def insert_bytes(content: bytes, rng: Random) -> bytes:
    place = rng.integers(len(content) + 1)
    return content[:place] + rng.bytes(rng.integers(1, 9)) + content[place:]


def repeat_a_part(content: bytes, rng: Random) -> bytes:
    start, end = sorted(rng.integers(len(content) + 1, size=2))
    return content[:end] + content[start:]


def drop_a_part(content: bytes, rng: Random) -> bytes:
    start, end = sorted(rng.integers(len(content) + 1, size=2))
    return content[:start] + content[end:]


def empty(content: bytes, rng: Random) -> bytes:
    del content, rng
    return b""


def drop_a_line(content: bytes, rng: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    del lines[rng.integers(len(lines))]
    return b"".join(lines)


def repeat_a_line(content: bytes, rng: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    place = rng.integers(len(lines))
    return b"".join([*lines[: place + 1], *lines[place:]])


def swap_lines(content: bytes, rng: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    one, other = rng.integers(len(lines), size=2)
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def to_utf16(content: bytes, rng: Random) -> bytes:
    del rng
    return content.decode("latin-1").encode("utf-16")


BINARY = (
    truncate, flip_bits, zero_a_block, insert_bytes, repeat_a_part, drop_a_part, empty
)  # fmt: skip
TEXT = (*BINARY, drop_a_line, repeat_a_line, swap_lines, to_utf16)


# --- of tables ------------------------------------------------------------------------


def change_a_cell(separator: bytes) -> Change:
    """Puts something odd into a cell."""

    def change(content: bytes, rng: Random) -> bytes:
        lines = content.split(b"\n")
        place = rng.integers(len(lines))
        cells = lines[place].split(separator)
        cells[rng.integers(len(cells))] = ODD_CELLS[rng.integers(len(ODD_CELLS))]
        lines[place] = separator.join(cells)
        return b"\n".join(lines)

    return change


def change_columns(separator: bytes) -> Change:
    """Drops, repeats or reorders the columns, of all rows alike."""

    def change(content: bytes, rng: Random) -> bytes:
        rows = [line.split(separator) for line in content.splitlines()]
        order = list(range(len(rows[0])))
        match rng.integers(3):
            case 0:
                del order[rng.integers(len(order))]
            case 1:
                order.insert(rng.integers(len(order)), rng.integers(len(order)))
            case _:
                rng.shuffle(order)
        picked = ([row[n] for n in order if n < len(row)] for row in rows)
        return b"".join(separator.join(row) + b"\n" for row in picked)

    return change


def change_separator(separator: bytes) -> Change:
    def change(content: bytes, rng: Random) -> bytes:
        others = [other for other in SEPARATORS if other != separator]
        return content.replace(separator, others[rng.integers(len(others))])

    return change


def of_table(separator: bytes) -> tuple[Change, ...]:
    """All that can happen to a delimited text."""
    makers = (change_a_cell, change_a_cell, change_columns, change_separator)
    return (*TEXT, *(maker(separator) for maker in makers))


# --- of files -------------------------------------------------------------------------


def remove(path: pathlib.Path) -> None:
    path.unlink()


def make_folder(path: pathlib.Path) -> None:
    path.unlink()
    path.mkdir()


def make_loop(path: pathlib.Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def make_pipe(path: pathlib.Path) -> None:
    """Nobody writes to it: whoever opens it waits forever."""
    path.unlink()
    os.mkfifo(path)


def make_unreadable(path: pathlib.Path) -> None:
    path.chmod(0)


OF_FILES = (remove, make_folder, make_loop, make_pipe, make_unreadable)


def apply(
    path: pathlib.Path,
    changes: tuple[Change, ...],
    rng: Random,
    file_share: float = 0.1,
) -> str:
    """Does something to the file at `path`; says what."""
    if rng.random() < file_share:
        harm = OF_FILES[rng.integers(len(OF_FILES))]
        harm(path)
        return f"{harm.__name__} {path.name}"
    content = path.read_bytes()
    change = changes[rng.integers(len(changes))] if content else insert_bytes
    path.write_bytes(change(content, rng))
    return f"{change.__name__} {path.name}"


def compress(path: pathlib.Path) -> pathlib.Path:
    """The file, compressed, in place of the file."""
    target = path.with_name(path.name + ".gz")
    target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
    path.unlink()
    return target


@contextlib.contextmanager
def spared(folder: pathlib.Path, spare: pathlib.Path) -> Iterator[None]:
    """Puts everything in `folder` back afterwards, as it is in `spare`."""
    try:
        yield
    finally:
        shutil.rmtree(folder)
        shutil.copytree(spare, folder)


# --- the judge ------------------------------------------------------------------------


class _HangError(BaseException):
    """Nothing that code under test would catch."""


class Faults(list[str]):
    """What went wrong, a line and a traceback each; and how often what went right."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: collections.Counter[str] = collections.Counter()

    def none(self) -> None:
        """Fails where there are faults, and shows the first few."""
        shown = "\n\n".join(self[:5])
        assert not self, f"{len(self)} faults:\n{shown}"


def judge(
    case: str,
    action: Callable[[], Any],
    errors: tuple[type[Exception], ...],
    places: tuple[str, ...],
    faults: Faults,
) -> Any:
    """The result of `action`; None where it was refused, rightly or not.

    Args:
      case: what was done, for the report.
      action: reads what was damaged.
      errors: with which it may be refused.
      places: one of which the message must contain.
      faults: gets what is wrong with the refusal.
    """
    try:
        with _limited(TIME_LIMIT):
            result = action()
        faults.outcomes["accepted"] += 1
        return result
    except errors as error:
        message = str(error)
        faults.outcomes["refused"] += 1
        if "\n" in message or not any(place in message for place in places):
            faults.append(f"{case}: not one line that names the place: {message!r}")
    except (Exception, _HangError, SystemExit):
        faults.append(f"{case}\n{traceback.format_exc()}")
    return None


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise _HangError(f"after {seconds:g} s")

    earlier = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, earlier)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user to whom permissions apply, which they do not to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
