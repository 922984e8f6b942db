"""Archives of published files: what is wanted comes out, under its own name alone.

Nothing is believed: neither names (they could lead out of the folder) nor kinds (a link
could) nor sizes (a few kilobytes can claim, or become, terabytes).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import gzip
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from darlr_jax.data.dataset import DataError
from darlr_jax.files import replacing

_CHUNK = 1 << 20  # bytes; no header of a tar may be longer
_ZIP = b"PK"
_GZIP = b"\x1f\x8b"
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a version or an option of zip
    OverflowError,
    ValueError,  # numbers and names in headers
)


def unpack(
    archive: Path, folder: Path, *, members: Collection[str], size_limit: int
) -> list[Path]:
    """Takes the wanted files out of a zip or a tar.gz, all of them or none.

    Args:
      archive: the archive; its first bytes tell its kind.
      folder: gets the files, at `folder / member`, in place of any of the same name.
      members: relative names, as "train.ascii" or "features/users.csv"; each means the
        one file of the archive whose path ends so, in whichever folder it lies.
      size_limit: the most bytes that may come out. In a tar.gz whatever must be
        decompressed counts, wanted or not.

    Returns:
      The files, in the order of `members`.

    Raises:
      DataError: the archive is neither kind, damaged, truncated, encrypted or too
        large, lacks a member or has it twice, or holds a name that leads elsewhere.
    """
    try:
        # The files get their names when the whole archive has been found to be good.
        with contextlib.ExitStack() as stack:
            _extract(archive, folder, members, size_limit, stack)
    except DataError:
        raise
    except _DAMAGE as error:
        raise _damaged(archive, str(error) or type(error).__name__) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # a position before the beginning
            raise _damaged(archive, "a wrong position in it") from None
        where = error.filename or archive
        raise DataError(f"{where}: {error.strerror or error}") from None
    return [folder / member for member in members]


def _damaged(archive: Path, reason: str) -> DataError:
    return DataError(
        f"{archive}: is damaged or truncated ({reason}); delete it and fetch it again"
    )


class _Entry(NamedTuple):
    """One member of an archive."""

    name: str
    size: int  # bytes, as it claims
    fault: str  # why it cannot be had; empty for an ordinary file
    open: Callable[[], IO[bytes] | None]


class _Budget:
    """The bytes that may still come out of an archive."""

    def __init__(self, archive: Path, limit: int):
        self._archive = archive
        self._limit = limit
        self._spent = 0

    def require(self, size: int) -> None:
        """Refuses to go `size` bytes further."""
        if self._spent + size > self._limit:
            raise DataError(
                f"{self._archive}: unpacks to more than {self._limit} bytes, which no "
                "official archive does"
            )

    def spend(self, size: int) -> None:
        """Goes `size` bytes further."""
        self.require(size)
        self._spent += size


def _extract(
    archive: Path,
    folder: Path,
    members: Collection[str],
    size_limit: int,
    stack: contextlib.ExitStack,
) -> None:
    """Writes the wanted files; they get their names when `stack` is closed."""
    budget = _Budget(archive, size_limit)
    found: set[str] = set()
    for entry in _entries(archive, size_limit):
        for member in _wanted(archive, entry.name, members):
            if member in found:
                raise DataError(f"{archive}: holds {member} more than once")
            if entry.fault:
                raise DataError(f"{archive}: {entry.name}: is {entry.fault}")
            path = folder / member
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy(entry, stack.enter_context(replacing(path)), budget)
            found.add(member)
    missing = [member for member in members if member not in found]
    if missing:
        raise DataError(
            f"{archive}: holds no {', '.join(missing)}; is it the official archive?"
        )


def _wanted(archive: Path, name: str, members: Collection[str]) -> list[str]:
    """The members that a `name` of the archive ends with; it may not lead elsewhere."""
    parts = re.split(r"[/\\]", name)
    if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", parts[0]):
        raise DataError(f"{archive}: {name!r} leads out of the archive's folder")
    return [
        member
        for member in members
        if parts[-member.count("/") - 1 :] == member.split("/")
    ]


def _copy(entry: _Entry, path: Path, budget: _Budget) -> None:
    budget.require(entry.size)
    source = entry.open()
    assert source is not None, "only links and folders have no contents"
    with source, path.open("wb") as target:
        while chunk := source.read(_CHUNK):
            budget.spend(len(chunk))
            target.write(chunk)


# --- the two kinds --------------------------------------------------------------------


def _entries(archive: Path, size_limit: int) -> Iterator[_Entry]:
    """The members in their order; each is to be read before the next one."""
    with archive.open("rb") as file:
        start = file.read(2)
    if start == _ZIP:
        return _zip_entries(archive)
    if start == _GZIP:
        return _tar_entries(archive, size_limit)
    raise DataError(
        f"{archive}: is neither a zip nor a tar.gz; delete it and fetch it again"
    )


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            opened = functools.partial(file.open, info)
            yield _Entry(info.filename, info.file_size, _zip_fault(info), opened)


def _zip_fault(info: zipfile.ZipInfo) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where no Unix has written it
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        return "a link, a folder or a device"
    if info.flag_bits & 1:
        return "encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compressed in an uncommon way"
    return ""


def _tar_entries(archive: Path, size_limit: int) -> Iterator[_Entry]:
    with gzip.open(archive) as stream:
        bounded: Any = _Bounded(stream, _Budget(archive, size_limit))
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            for info in tar:
                ordinary = info.isreg() and not info.issparse()
                fault = "" if ordinary else "a link, a folder or a device"
                opened = functools.partial(tar.extractfile, info)
                yield _Entry(info.name, info.size, fault, opened)
        while bounded.read(_CHUNK):  # up to the checksum, which stands at the end
            pass


class _Bounded:
    """The tar inside a tar.gz, which is read once, from front to back, up to a limit.

    `tarfile` believes a header that it is a terabyte long, or that the next one lies
    before it.
    """

    def __init__(self, stream: gzip.GzipFile, budget: _Budget):
        self._stream = stream
        self._budget = budget
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size > _CHUNK:
            raise tarfile.ReadError(f"a header of {size} bytes")
        chunk = self._stream.read(size)
        self._budget.require(self.tell())
        return chunk

    def seek(self, offset: int) -> int:
        if offset < self.tell() - 1:
            raise tarfile.ReadError("a member before the one it follows")
        self._budget.require(offset)
        return self._stream.seek(offset)
