"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

ABANDONED = 24 * 3600.0  # seconds after which no writer is still at work
_TRIES = 20  # to put a folder in the place of one that others replace all the time


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file or a folder to; it becomes `path` if the block succeeds.

    Readers, and a process that is killed, see the old contents or the new ones, never
    half; an old folder is absent for an instant. The last of several writers wins. What
    is written is on the disk before it gets its name, as a power loss asks for.
    """
    temporary = _temporary(path)
    try:
        yield temporary
        for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
            if file.is_file():
                flush(file)
        _put(temporary, path)
    finally:
        _remove(temporary)


def flush(file: Path) -> None:
    """Returns when the disk, not the system's memory alone, has what was written."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())


def remove_abandoned(
    folder: Path, age: float | None = ABANDONED, name: str | None = None
) -> None:
    """Removes what writers who were killed have left in `folder`.

    Args:
      folder: where `replacing` was to put something; need not exist.
      age: seconds since the last change; None where nobody else can be at work.
      name: of what was to be put there; None for whatever it was.
    """
    pattern = ".*.tmp" if name is None else f".{glob.escape(name)}.*.tmp"
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # its writer has just ended
            if age is None or path.stat().st_mtime < time.time() - age:
                _remove(path)


def _put(temporary: Path, path: Path) -> None:
    """The old folder goes when the new one is there, and comes back if that fails."""
    aside: list[Path] = []
    try:
        for _ in range(_TRIES):
            try:
                os.replace(temporary, path)
                return
            except OSError as error:
                # Nothing can take the place of a folder that holds something.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                aside.append(_temporary(path))
                with contextlib.suppress(FileNotFoundError):  # another was faster
                    os.replace(path, aside[-1])
        raise OSError(errno.EBUSY, "is replaced by others all the time", str(path))
    except OSError:
        for old in aside[-1:]:
            with contextlib.suppress(OSError):  # that of another writer is there
                os.replace(old, path)
        raise
    finally:
        for old in aside:
            _remove(old)


def _temporary(path: Path) -> Path:
    """A name that no other writer uses, in the same file system, hidden from `ls`."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
