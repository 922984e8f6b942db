"""Downloads of published files: mirrors, resumption, checksums; standard library only.

A transfer goes to `<target>.part`. It is renamed to its target when it is whole and has
the published checksum, so a file that is there can be trusted. What an interrupted
transfer leaves is continued by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

import darlr_jax
from darlr_jax.data import text
from darlr_jax.data.dataset import DataError

TIMEOUT = 30.0  # seconds without an answer, or without a byte
SCHEMES = ("https", "http")
RESERVE = 64 << 20  # bytes of the disk that stay free

_CHUNK = 1 << 18
_CONTINUATIONS = 5  # of a transfer that breaks off, at one mirror
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")
_BEYOND_THE_END = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE

Progress = Callable[[int, int | None], None]


def download(
    urls: Sequence[str],
    target: Path,
    *,
    size_limit: int,
    checksum: str | None = None,
    progress: Progress | None = None,
    advice: str = "",
) -> Path:
    """Downloads a file from the first of its mirrors that has it, unless it is there.

    Args:
      urls: the mirrors, http or https, best first; all have the same bytes.
      target: where the file belongs; its folder is created.
      size_limit: the most bytes that are accepted.
      checksum: "sha256:<hex>" or "md5:<hex>" of the file. Without one, what an earlier
        transfer has left is not continued: nothing tells whether the parts match.
      progress: is told the bytes that are there and, where known, those of the file.
      advice: what else can be done where no mirror has the file; ends the error.

    Returns:
      `target`.

    Raises:
      DataError: no mirror has the file (each with its reason, and what to do by hand),
        the disk is full, another process downloads it, or `target` is another file.
    """
    if target.exists():
        try:
            _require_published(target, checksum)
        except OSError as error:
            raise DataError(
                f"{target}: cannot be read ({error.strerror}); mend that or move it "
                "away to download it anew"
            ) from None
        return target
    job = _Job(target, size_limit, checksum, progress or _say_nothing)
    failures = []
    with _exclusive(job.part) as part:
        for url in urls:
            try:
                _fetch(url, part, job)
                os.replace(job.part, target)
                return target
            except _MirrorError as error:
                failures.append(f"{url}: {' '.join(str(error).split())}")
        if _size(part) == 0:
            job.part.unlink()
    raise DataError(
        f"{target}: cannot be downloaded ({'; '.join(failures)}); download it by hand, "
        f"from one of these addresses or elsewhere, and put it at this path{advice}"
    )


class _Job(NamedTuple):
    """What is downloaded, whichever mirror it comes from."""

    target: Path
    size_limit: int
    checksum: str | None
    progress: Progress

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")


class _MirrorError(Exception):
    """Why one mirror is of no use."""


class _CutOffError(_MirrorError):
    """The transfer broke off; what has arrived is good."""


def _say_nothing(done: int, total: int | None) -> None:
    del done, total


def _require_published(target: Path, checksum: str | None) -> None:
    difference = _difference(target, checksum)
    if difference:
        raise DataError(
            f"{target}: is not the published file ({difference}); move it away to "
            "download it anew"
        )


def _difference(path: Path, checksum: str | None) -> str:
    """What tells the file from the published one; empty where nothing does."""
    if checksum is None:
        return ""
    algorithm = checksum.partition(":")[0]
    found = f"{algorithm}:{text.digest(path, algorithm)}"
    return "" if found == checksum else f"expected {checksum}, found {found}"


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[IO[bytes]]:
    """The file `path`, created if need be, which one process has at a time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last owner may have renamed it after it was opened here.
            if not path.exists() or not os.path.samestat(
                path.stat(), os.fstat(file.fileno())
            ):
                raise BlockingIOError
            yield file
    except BlockingIOError:
        raise DataError(
            f"{path}: another process is downloading it; start again when it is done"
        ) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror})") from None


# --- one mirror -----------------------------------------------------------------------


def _fetch(url: str, part: IO[bytes], job: _Job) -> None:
    """Fills `part` with the whole file, and verifies it.

    Raises:
      _MirrorError: this mirror does not have it; what `part` holds may be continued.
    """
    for _ in range(_CONTINUATIONS):
        before = _size(part) if job.checksum else 0
        try:
            start = _transfer(url, part, before, job)
        except _CutOffError:
            if job.checksum is None or _size(part) <= before:
                raise
            continue
        difference = _difference(job.part, job.checksum)
        if not difference:
            return
        part.truncate(0)
        if start == 0:
            raise _MirrorError(f"has another file: {difference}")
    raise _MirrorError("breaks off again and again; start again to continue")


def _transfer(url: str, part: IO[bytes], start: int, job: _Job) -> int:
    """Appends to `part`, of which at most `start` bytes are kept, up to the end.

    Returns:
      The bytes that were kept: 0 where the mirror sent the whole file.
    """
    response, start, total = _request(url, start)
    with contextlib.closing(response):
        if total is not None:
            _require_at_most(total, job.size_limit)
            _require_space(job.part, total - start)
        part.truncate(start)
        done = start
        job.progress(done, total)
        while total is None or done < total:
            chunk = _read(response)
            if not chunk:
                break
            done += len(chunk)
            _require_at_most(done, job.size_limit)
            part.write(chunk)
            part.flush()
            job.progress(done, total)
    if total is not None and done < total:
        raise _CutOffError(f"sent {done} of {total} bytes")
    return start


def _require_at_most(size: int, limit: int) -> None:
    if size > limit:
        raise _MirrorError(f"sends {size} bytes or more, at most {limit} are expected")


def _require_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed + RESERVE:
        raise DataError(
            f"{path}: needs {needed >> 20} MiB of the disk and {RESERVE >> 20} MiB "
            f"beside them, but {free >> 20} MiB are free"
        )


def _size(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


# --- HTTP -----------------------------------------------------------------------------


def _request(url: str, start: int) -> tuple[HTTPResponse, int, int | None]:
    """Asks for the bytes from `start` on; a mirror may send the whole file instead.

    Returns:
      The response, where in the file it starts, and how long the file is, if known.
    """
    response = _open(url, start)
    if response.status == HTTPStatus.OK:
        return response, 0, _length(response)
    first, total = _content_range(response)
    partial = response.status == HTTPStatus.PARTIAL_CONTENT and first == start
    # Beyond the end of the file begins what follows a part that is whole.
    whole = response.status == _BEYOND_THE_END and total == start
    if start and (partial or whole):
        return response, start, total
    response.close()
    if start == 0:
        raise _MirrorError(f"answers with HTTP {response.status}")
    return _request(url, 0)


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"User-Agent": f"darlr_jax/{darlr_jax.__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        if urlsplit(url).scheme not in SCHEMES:
            raise _MirrorError(f"is no address of {' or '.join(SCHEMES)}")
        request = urllib.request.Request(url, headers=headers)
        return _opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        raise _MirrorError(f"HTTP {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _MirrorError(str(error.reason)) from None
    except (OSError, ValueError, HTTPException) as error:
        raise _MirrorError(_describe(error)) from None


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https alone; the default one reads files and FTP as well."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Statuses(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


class _Statuses(urllib.request.HTTPErrorProcessor):
    """Lets pass what `_request` understands; all else is an error or a redirect."""

    def http_response(self, request: Any, response: Any) -> Any:
        if response.status == _BEYOND_THE_END:
            return response
        return super().http_response(request, response)

    https_response = http_response


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows what keeps the scheme, or goes from http to https."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in {req.type, "https"}:
            raise urllib.error.URLError(f"redirects to {newurl}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, HTTPException) as error:
        raise _CutOffError(f"breaks off: {_describe(error)}") from None


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


def _length(response: HTTPResponse) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _content_range(response: HTTPResponse) -> tuple[int | None, int | None]:
    """The position of the first byte sent, and the length of the file, where told."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    first, total = found.groups()
    return int(first) if first else None, int(total) if total != "*" else None
