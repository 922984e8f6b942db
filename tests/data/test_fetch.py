"""Downloads, from servers on the loopback interface that behave well and badly."""

import hashlib
import http.server
import itertools
import os
import re
import socket
import threading

import pytest

from darlr_jax.data import fetch
from darlr_jax.data.dataset import DataError

CONTENT = bytes(range(256)) * 4000  # about a megabyte, several chunks
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; the first part of the path says how."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        getattr(self, self.path.split("/")[1])()

    def log_message(self, *_):
        pass

    def _answer(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def _start(self):
        asked = self.headers.get("Range")
        return int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0

    def _partial(self, start, body):
        position = f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}"
        headers = {"Content-Range": position, "Content-Length": len(CONTENT) - start}
        self._answer(206, headers, body)

    def good(self):
        """Knows ranges."""
        start = self._start()
        if not start:
            self.plain()
        elif start >= len(CONTENT):
            self._answer(416, {"Content-Range": f"bytes */{len(CONTENT)}"})
        else:
            self._partial(start, CONTENT[start:])

    def plain(self):
        """Knows no ranges."""
        self._answer(200, {"Content-Length": len(CONTENT)}, CONTENT)

    def shifted(self):
        """Answers another range than was asked for, but whole requests well."""
        start = self._start()
        if start:
            self._partial(start - 1, CONTENT[start - 1 :])
        else:
            self.plain()

    def truncated(self):
        self._answer(200, {"Content-Length": len(CONTENT)}, CONTENT[:300_000])

    def piecemeal(self):
        """Breaks off after 400,000 bytes, and can be asked for the rest."""
        start = self._start()
        piece = CONTENT[start : start + 400_000]
        if start:
            self._partial(start, piece)
        else:
            self._answer(200, {"Content-Length": len(CONTENT)}, piece)

    def chunked(self):
        """Says the length of each piece, not of the file."""
        pieces = (CONTENT[i : i + 70_000] for i in range(0, len(CONTENT), 70_000))
        body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        self._answer(200, {"Transfer-Encoding": "chunked"}, body + b"0\r\n\r\n")

    def halfchunked(self):
        body = b"%x\r\n%b\r\n" % (1000, CONTENT[:1000])
        self._answer(200, {"Transfer-Encoding": "chunked"}, body)

    def unannounced(self):
        """Says no length at all."""
        self._answer(200, {"Connection": "close"}, CONTENT)

    def other(self):
        body = b"<html>Please log in</html>"
        self._answer(200, {"Content-Length": len(body)}, body)

    def missing(self):
        self._answer(404, {"Content-Length": 0})

    def silent(self):
        self.server.released.wait(10)

    def redirect(self):
        target = self.path.removeprefix("/redirect/")
        self._answer(302, {"Location": target, "Content-Length": 0})

    def endless(self):
        self._answer(302, {"Location": self.path, "Content-Length": 0})

    def partial(self):
        """Sends a part although the whole was asked for."""
        self._partial(0, CONTENT)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass  # a client that has seen enough hangs up


@pytest.fixture(scope="module")
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.released = threading.Event()
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def mirror(server):
    """Turns "good" into the address of a mirror that behaves so."""
    server.requests.clear()
    return lambda path: f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "raw" / "data.zip"


@pytest.fixture
def part(target):
    """What an earlier transfer has left: a good beginning."""
    target.parent.mkdir()
    path = target.with_name("data.zip.part")
    path.write_bytes(CONTENT[:250_001])
    return path


def download(urls, target, *, checksum=SHA256, size_limit=2 << 20, **more):
    return fetch.download(
        urls, target, checksum=checksum, size_limit=size_limit, **more
    )


def assert_complete(target):
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == [target.name]


def refused(urls, target, **more):
    """The one line that says why nothing was downloaded."""
    with pytest.raises(DataError) as caught:
        download(urls, target, **more)
    assert not target.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["good", "chunked", "unannounced"])
@pytest.mark.parametrize("checksum", [SHA256, MD5, None])
def test_file_is_downloaded(mirror, target, kind, checksum):
    assert download([mirror(kind)], target, checksum=checksum) == target

    assert_complete(target)


def test_progress_rises_to_the_total(mirror, target):
    calls = []

    download([mirror("good")], target, progress=lambda *call: calls.append(call))

    done = [call[0] for call in calls]
    assert done[0] == 0 and done[-1] == len(CONTENT)
    assert all(before < after for before, after in itertools.pairwise(done))
    assert {total for _, total in calls} == {len(CONTENT)}


def test_progress_without_a_length(mirror, target):
    calls = []

    download([mirror("chunked")], target, progress=lambda *call: calls.append(call))

    assert calls[-1] == (len(CONTENT), None)


def test_file_that_is_there_is_not_downloaded(mirror, server, target):
    target.parent.mkdir()
    target.write_bytes(CONTENT)

    assert download([mirror("good")], target) == target
    assert server.requests == []


def test_other_file_in_the_way_is_kept_and_named(mirror, target):
    target.parent.mkdir()
    target.write_bytes(b"mine")

    with pytest.raises(DataError, match=f"{target}: is not the published .* move it"):
        download([mirror("good")], target)
    assert target.read_bytes() == b"mine"


def test_what_cannot_be_read_in_the_way_is_named(mirror, target):
    target.mkdir(parents=True)

    with pytest.raises(DataError, match=f"{target}: cannot be read .* move it"):
        download([mirror("good")], target)


# --- what an earlier transfer has left ------------------------------------------------


def test_transfer_is_continued(mirror, server, target, part):
    calls = []

    download([mirror("good")], target, progress=lambda *call: calls.append(call))

    assert_complete(target)
    assert server.requests == [("/good", "bytes=250001-")]
    assert calls[0] == (250_001, len(CONTENT))


def test_whole_part_needs_no_byte(mirror, server, target, part):
    part.write_bytes(CONTENT)

    download([mirror("good")], target)

    assert_complete(target)
    assert server.requests == [("/good", f"bytes={len(CONTENT)}-")]


@pytest.mark.parametrize("kind", ["plain", "shifted"])
def test_server_that_ignores_the_range(mirror, target, part, kind):
    download([mirror(kind)], target)

    assert_complete(target)


@pytest.mark.parametrize("size", [1000, len(CONTENT), len(CONTENT) + 7])
def test_part_of_another_file_is_given_up(mirror, server, target, part, size):
    part.write_bytes(b"x" * size)

    download([mirror("good")], target)

    assert_complete(target)
    assert server.requests[-1] == ("/good", None)


def test_without_a_checksum_nothing_is_continued(mirror, server, target, part):
    part.write_bytes(b"x" * 1000)

    download([mirror("good")], target, checksum=None)

    assert_complete(target)
    assert server.requests == [("/good", None)]


def test_interruption_leaves_what_has_arrived(mirror, server, target):
    def interrupt(done, total):
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download([mirror("good")], target, progress=interrupt)
    assert not target.exists()
    size = target.with_name("data.zip.part").stat().st_size
    assert size > 300_000

    download([mirror("good")], target)

    assert_complete(target)
    assert server.requests[-1] == ("/good", f"bytes={size}-")


def test_transfer_that_breaks_off_goes_on(mirror, server, target):
    download([mirror("piecemeal")], target)

    assert_complete(target)
    asked = [start for _, start in server.requests]
    assert asked == [None, "bytes=400000-", "bytes=800000-"]


def test_two_processes_do_not_share_a_transfer(mirror, target, part):
    def start_another(done, total):
        with pytest.raises(DataError, match=r"zip\.part: another process is down"):
            download([mirror("good")], target)

    download([mirror("good")], target, progress=start_another)

    assert_complete(target)


# --- mirrors that fail ----------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["missing", "other", "truncated", "partial", "endless"]
)
def test_next_mirror_is_tried(mirror, target, kind):
    download([mirror(kind), mirror("good")], target)

    assert_complete(target)


@pytest.mark.parametrize(
    ("kind", "checksum", "reason"),
    [
        ("missing", SHA256, "HTTP 404"),
        ("truncated", None, "sent 300000 of 1024000 bytes"),
        ("halfchunked", None, "breaks off: IncompleteRead"),
        ("other", SHA256, f"has another file: expected {SHA256}, found sha256:"),
        ("other", MD5, f"has another file: expected {MD5}, found md5:"),
        ("partial", SHA256, "answers with HTTP 206"),
        ("redirect/file:///etc/hostname", SHA256, "HTTP 302 Found - Redirection"),
        ("redirect/ftp://localhost/data.zip", SHA256, "redirects to ftp://localhost"),
        ("endless", SHA256, "HTTP 302"),
    ],
)  # fmt: skip
def test_mirror_that_fails(mirror, target, kind, checksum, reason):
    url = mirror(kind)

    assert f"{url}: {reason}" in refused([url], target, checksum=checksum)


def test_all_mirrors_are_listed_and_what_to_do(mirror, target):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        message = refused([mirror("missing"), closed], target)

    assert message.startswith(f"{target}: cannot be downloaded (http://")
    assert f"{mirror('missing')}: HTTP 404 Not Found; {closed}: " in message
    assert "refused" in message
    assert message.endswith("put it at this path")
    assert os.listdir(target.parent) == []  # no empty part


def test_truncated_transfer_is_kept_for_the_next_start(mirror, target):
    assert "sent 300000 of 1024000 bytes" in refused([mirror("truncated")], target)
    assert target.with_name("data.zip.part").read_bytes() == CONTENT[:300_000]


def test_silent_server(mirror, target, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)

    assert "timed out" in refused([mirror("silent")], target)


@pytest.mark.parametrize("kind", ["good", "chunked"])
def test_more_bytes_than_expected(mirror, target, kind):
    limit = len(CONTENT) - 1

    message = refused([mirror(kind)], target, size_limit=limit)

    assert f"at most {limit} are expected" in message
    part = target.with_name("data.zip.part")
    assert not part.exists() or part.stat().st_size <= limit


def test_full_disk_is_told_before_the_transfer(mirror, target, monkeypatch):
    monkeypatch.setattr(fetch, "RESERVE", 1 << 60)
    calls = []

    message = refused(
        [mirror("good")], target, progress=lambda *call: calls.append(call)
    )

    assert "MiB are free" in message
    assert calls == []


def test_folder_that_cannot_be_made(mirror, target):
    target.parent.write_text("a file")

    with pytest.raises(DataError, match=r"zip\.part: cannot be written"):
        download([mirror("good")], target)


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://localhost/x", "data:,x", "/etc/hostname", ""]
)
def test_other_schemes_are_refused(target, url):
    assert "is no address of https or http" in refused([url], target)


@pytest.mark.parametrize("url", ["http://[", "http://exa mple/", "http://127.0.0.1:x/"])
def test_address_that_is_none(target, url):
    assert f"({url}: " in refused([url], target)


def test_redirect_is_followed(mirror, target):
    download([mirror(f"redirect/{mirror('good')}")], target)

    assert_complete(target)


def test_redirect_keeps_the_range(mirror, server, target, part):
    download([mirror(f"redirect/{mirror('good')}")], target)

    assert_complete(target)
    assert server.requests[-1] == ("/good", "bytes=250001-")


@pytest.mark.parametrize(
    ("before", "after", "allowed"),
    [("http", "https", True), ("https", "https", True), ("https", "http", False)],
)
def test_redirect_never_leaves_https(before, after, allowed):
    request = fetch.urllib.request.Request(f"{before}://a/x")
    follow = fetch._Redirects().redirect_request
    arguments = (request, None, 302, "Found", {}, f"{after}://b/x")

    if allowed:
        assert follow(*arguments).full_url == f"{after}://b/x"
    else:
        with pytest.raises(fetch.urllib.error.URLError, match="which is refused"):
            follow(*arguments)
