"""fetch against a file server that can fail in every way."""

import errno
import hashlib
import io
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from model.checkpoints.download import default_cache_dir, digest_file, fetch, sha256_of
from model.errors import DownloadError
from tests.constants import WAIT_S

BODY = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(BODY).hexdigest()
LOGGER = "model.checkpoints.download"


class FileServer:
    """Serves ``body`` with range requests; the next responses end after the numbers of bytes in ``cuts``."""

    def __init__(self) -> None:
        self.body, self.etag, self.linked_digest = BODY, '"v1"', ""
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges_supported = True
        self.requested_ranges: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.request_received = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.respond(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.bin"

    def respond(self, request: BaseHTTPRequestHandler) -> None:
        self.requested_ranges.append(request.headers["Range"])
        self.request_received.set()
        assert self.gate.wait(WAIT_S)
        if self.linked_digest and request.path == "/weights.bin":
            self._redirect(request)
        elif self.statuses and (status := self.statuses.pop(0)) != 200:
            request.send_error(status)
        else:
            self._send_body(request)

    def _redirect(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/cdn")
        request.send_header("X-Linked-Etag", f'"{self.linked_digest}"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _send_body(self, request: BaseHTTPRequestHandler) -> None:
        found = re.match(r"bytes=(\d+)-", request.headers["Range"] or "")
        unchanged = request.headers["If-Range"] in (None, self.etag)
        start = int(found.group(1)) if found and unchanged and self.ranges_supported else 0
        if start >= len(self.body):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        request.send_header("Content-Length", str(len(self.body) - start))
        request.end_headers()
        end = start + self.cuts.pop(0) if self.cuts else len(self.body)
        request.wfile.write(self.body[start:end])


@pytest.fixture
def server() -> Iterator[FileServer]:
    server = FileServer()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.gate.set()
    server.http.shutdown()
    server.http.server_close()
    thread.join(WAIT_S)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.bin"


@pytest.fixture
def info_log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, LOGGER)
    return caplog


def test_fetches_and_verifies_a_file_and_records_its_digest(server: FileServer, destination: Path) -> None:
    assert fetch(server.url, destination, sha256=DIGEST[:8]) == DIGEST
    assert destination.read_bytes() == BODY
    assert digest_file(destination).read_text() == f"{DIGEST}  weights.bin\n"
    assert not list(destination.parent.glob("*.part*"))


def test_does_not_fetch_an_existing_file(server: FileServer, destination: Path) -> None:
    fetch(server.url, destination)
    assert fetch(server.url, destination) == DIGEST
    assert len(server.requested_ranges) == 1


def test_resumes_an_interrupted_transfer(server: FileServer, destination: Path) -> None:
    server.cuts = [100_000, 300_000]
    assert fetch(server.url, destination, sha256=DIGEST, pause_s=0) == DIGEST
    assert server.requested_ranges == [None, "bytes=100000-", "bytes=400000-"]


def test_the_next_call_resumes_the_transfer(server: FileServer, destination: Path) -> None:
    server.cuts = [500_000]
    with pytest.raises(DownloadError, match="500000 bytes"):
        fetch(server.url, destination, attempts=1)
    assert not destination.exists()
    assert fetch(server.url, destination) == DIGEST
    assert server.requested_ranges == [None, "bytes=500000-"]


def test_fetches_a_file_that_changed_on_the_server_from_the_start(server: FileServer, destination: Path) -> None:
    server.cuts = [500_000]
    with pytest.raises(DownloadError):
        fetch(server.url, destination, attempts=1)
    server.body, server.etag = BODY[::-1], '"v2"'
    fetch(server.url, destination)
    assert destination.read_bytes() == BODY[::-1]


def test_does_not_resume_without_digest_and_etag(server: FileServer, destination: Path) -> None:
    server.etag, server.cuts = "", [500_000]
    assert fetch(server.url, destination, pause_s=0) == DIGEST
    assert server.requested_ranges == [None, None]


def test_fetches_from_the_start_if_the_server_does_not_support_ranges(server: FileServer, destination: Path) -> None:
    server.ranges_supported, server.cuts = False, [500_000]
    assert fetch(server.url, destination, pause_s=0) == DIGEST


@pytest.mark.parametrize("garbage", [b"x" * 1000, b"x" * (2 * len(BODY))], ids=["short", "longer than the file"])
def test_discards_a_corrupt_partial_file(server: FileServer, destination: Path, garbage: bytes) -> None:
    destination.parent.mkdir()
    destination.with_name("weights.bin.part").write_bytes(garbage)
    assert fetch(server.url, destination, sha256=DIGEST, pause_s=0) == DIGEST
    assert destination.read_bytes() == BODY


def test_discards_a_file_with_a_different_digest(server: FileServer, destination: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, destination, sha256="0123abcd")
    assert all(part in str(caught.value) for part in (server.url, str(destination), DIGEST, "0123abcd"))
    assert [path.name for path in destination.parent.iterdir()] == ["weights.bin.lock"]


def test_verifies_the_digest_that_hugging_face_sends(server: FileServer, destination: Path) -> None:
    server.linked_digest = DIGEST
    assert fetch(server.url, destination) == DIGEST
    destination.unlink()
    server.linked_digest = "0" * 64
    with pytest.raises(DownloadError, match="expected 0000"):
        fetch(server.url, destination)


def test_does_not_retry_not_found(server: FileServer, destination: Path) -> None:
    server.statuses = [404]
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(server.url, destination)
    assert len(server.requested_ranges) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retries_if_the_server_is_busy(server: FileServer, destination: Path, status: int) -> None:
    server.statuses = [status, status]
    assert fetch(server.url, destination, pause_s=0) == DIGEST


def test_fails_if_the_server_does_not_respond(server: FileServer, destination: Path) -> None:
    server.gate.clear()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(server.url, destination, attempts=1, timeout_s=0.1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/weights.bin", "ftp://example.org/x", "http://[/"])
def test_names_the_file_to_provide_if_the_url_cannot_be_fetched(url: str, destination: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(url, destination, attempts=2, pause_s=0)
    assert str(destination) in str(caught.value)


def assert_names_the_cache_folder(error: DownloadError, folder: Path) -> None:
    assert str(folder) in str(error)
    assert "CONVNEXT_CACHE_DIR" in str(error)


def test_rejects_a_cache_folder_that_is_a_file(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, tmp_path / "cache" / "weights.bin")
    assert_names_the_cache_folder(caught.value, tmp_path / "cache")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a folder that even root cannot write to")
def test_rejects_a_read_only_cache_folder(server: FileServer) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, Path("/sys/convnext-serve/weights.bin"))
    assert_names_the_cache_folder(caught.value, Path("/sys/convnext-serve"))
    assert not server.requested_ranges


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize("suffix", ["part", "part.etag", "sha256"])
def test_a_full_disk_leaves_no_file(server: FileServer, destination: Path, suffix: str) -> None:
    destination.parent.mkdir()
    destination.with_name(f"weights.bin.{suffix}").symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=re.escape(os.strerror(errno.ENOSPC))) as caught:
        fetch(server.url, destination)
    assert_names_the_cache_folder(caught.value, destination.parent)
    assert not destination.exists()
    destination.with_name(f"weights.bin.{suffix}").unlink()
    assert fetch(server.url, destination) == DIGEST


def test_only_one_of_several_calls_fetches_the_file(server: FileServer, destination: Path) -> None:
    server.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fetch, server.url, destination, sha256=DIGEST) for _ in range(4)]
        assert server.request_received.wait(WAIT_S)
        server.gate.set()
        assert [future.result(WAIT_S) for future in futures] == [DIGEST] * 4
    assert len(server.requested_ranges) == 1


def test_waits_for_another_process_for_a_limited_time(
    server: FileServer, destination: Path, info_log: pytest.LogCaptureFixture
) -> None:
    destination.parent.mkdir()
    with FileLock(f"{destination}.lock"), pytest.raises(DownloadError, match=r"weights\.bin\.lock"):
        fetch(server.url, destination, lock_timeout_s=0.05)
    assert f"{destination}.lock" in info_log.text


def test_logs_progress_without_a_terminal(
    server: FileServer, destination: Path, info_log: pytest.LogCaptureFixture
) -> None:
    fetch(server.url, destination)
    messages = [record.getMessage() for record in info_log.records]
    assert messages[0] == "fetching weights.bin"
    assert messages[-1] == "fetching weights.bin: 1 of 1 MB"
    assert 2 <= len(messages) <= 11


def test_shows_a_progress_bar_on_a_terminal(
    server: FileServer, destination: Path, monkeypatch: pytest.MonkeyPatch, info_log: pytest.LogCaptureFixture
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(server.url, destination)
    assert "weights.bin" in terminal.getvalue()
    assert "1.0/1.0 MB" in terminal.getvalue()
    assert not info_log.records


def test_the_environment_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "convnext-serve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "convnext-serve"


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf")
