import hashlib
import io
import logging
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock

from model.checkpoints.download import default_cache_dir, fetch, sha256_of
from model.errors import DownloadError

BODY = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(BODY).hexdigest()


class FileServer:
    """Serves ``body`` with ranges; ``cuts`` are the bytes after which the next answers break off."""

    def __init__(self) -> None:
        self.body, self.etag, self.announced = BODY, '"v1"', ""
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.ranges_supported = True
        self.requested: list[str | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.bin"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requested.append(request.headers["Range"])
        self.arrived.set()
        assert self.gate.wait(10)
        if self.announced and request.path == "/weights.bin":
            request.send_response(302)
            request.send_header("Location", "/cdn")
            request.send_header("X-Linked-Etag", f'"{self.announced}"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            request.send_error(status)
            return
        found = re.match(r"bytes=(\d+)-", request.headers["Range"] or "")
        fresh = request.headers["If-Range"] in (None, self.etag)
        start = int(found.group(1)) if found and fresh and self.ranges_supported else 0
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
    thread.join(10)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.bin"


def test_fetches_verifies_and_notes_the_digest(server, destination):
    assert fetch(server.url, destination, sha256=DIGEST[:8]) == DIGEST
    assert destination.read_bytes() == BODY
    assert (destination.parent / "weights.bin.sha256").read_text() == f"{DIGEST}  weights.bin\n"
    assert not list(destination.parent.glob("*.part*"))


def test_a_file_that_is_there_is_not_fetched_again(server, destination):
    fetch(server.url, destination)
    assert fetch(server.url, destination) == DIGEST
    assert len(server.requested) == 1


def test_a_cut_transfer_is_resumed_where_it_stopped(server, destination):
    server.cuts = [100_000, 300_000]
    assert fetch(server.url, destination, sha256=DIGEST, pause_s=0) == DIGEST
    assert server.requested == [None, "bytes=100000-", "bytes=400000-"]


def test_the_next_call_resumes_what_the_last_one_left(server, destination):
    server.cuts = [500_000]
    with pytest.raises(DownloadError, match="1 attempts failed"):
        fetch(server.url, destination, attempts=1)
    assert not destination.exists()
    assert fetch(server.url, destination) == DIGEST
    assert server.requested == [None, "bytes=500000-"]


def test_a_file_that_changed_meanwhile_is_fetched_whole(server, destination):
    server.cuts = [500_000]
    with pytest.raises(DownloadError):
        fetch(server.url, destination, attempts=1)
    server.body, server.etag = BODY[::-1], '"v2"'
    fetch(server.url, destination)
    assert destination.read_bytes() == BODY[::-1]


def test_without_digest_and_version_nothing_is_resumed(server, destination):
    server.etag, server.cuts = "", [500_000]
    assert fetch(server.url, destination, pause_s=0) == DIGEST
    assert server.requested == [None, None]


def test_a_server_without_ranges_is_asked_for_the_whole(server, destination):
    server.ranges_supported, server.cuts = False, [500_000]
    assert fetch(server.url, destination, pause_s=0) == DIGEST


@pytest.mark.parametrize("garbage", [b"x" * 1000, b"x" * (2 * len(BODY))], ids=["short", "longer than the file"])
def test_a_damaged_part_is_discarded_and_the_whole_fetched(server, destination, garbage):
    destination.parent.mkdir()
    destination.with_name("weights.bin.part").write_bytes(garbage)
    assert fetch(server.url, destination, sha256=DIGEST, pause_s=0) == DIGEST
    assert destination.read_bytes() == BODY


def test_another_digest_leaves_nothing_behind_and_says_how_to_help_oneself(server, destination):
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, destination, sha256="0123abcd")
    assert server.url in str(caught.value)
    assert f"put it at {destination}" in str(caught.value)
    assert DIGEST in str(caught.value)
    assert [path.name for path in destination.parent.iterdir()] == ["weights.bin.lock"]


def test_the_digest_that_hugging_face_announces_is_held_to(server, destination):
    server.announced = DIGEST
    assert fetch(server.url, destination) == DIGEST
    destination.unlink()
    server.announced = "0" * 64
    with pytest.raises(DownloadError, match="0000 was expected"):
        fetch(server.url, destination)


def test_not_found_is_final(server, destination):
    server.statuses = [404]
    with pytest.raises(DownloadError, match="HTTP 404"):
        fetch(server.url, destination)
    assert len(server.requested) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, destination, status):
    server.statuses = [status, status]
    assert fetch(server.url, destination, pause_s=0) == DIGEST


def test_a_silent_server_ends_in_an_error(server, destination):
    server.gate.clear()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(server.url, destination, attempts=1, timeout_s=0.1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/weights.bin", "ftp://example.org/x", "http://[/"])
def test_no_network_and_bad_addresses_name_the_file_to_supply(url, destination):
    with pytest.raises(DownloadError) as caught:
        fetch(url, destination, attempts=2, pause_s=0)
    assert str(destination) in str(caught.value)


def test_a_cache_that_cannot_be_written_is_an_error_of_its_own(server, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DownloadError, match="cache"):
        fetch(server.url, tmp_path / "cache" / "weights.bin")


def test_of_several_at_once_one_fetches_and_all_get_the_file(server, destination):
    server.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fetch, server.url, destination, sha256=DIGEST) for _ in range(4)]
        assert server.arrived.wait(10)
        server.gate.set()
        assert [future.result(10) for future in futures] == [DIGEST] * 4
    assert len(server.requested) == 1


def test_waiting_for_another_process_is_said_and_has_an_end(server, destination, caplog):
    caplog.set_level(logging.INFO, "model.checkpoints.download")
    destination.parent.mkdir()
    with FileLock(f"{destination}.lock"), pytest.raises(DownloadError, match="another process has held"):
        fetch(server.url, destination, lock_timeout_s=0.05)
    assert f"waiting for another process that holds {destination}.lock" in caplog.text


def test_progress_is_logged_where_there_is_no_terminal(server, destination, caplog):
    caplog.set_level(logging.INFO, "model.checkpoints.download")
    fetch(server.url, destination)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "fetching weights.bin"
    assert messages[-1] == "fetching weights.bin: 1 of 1 MB"
    assert 2 <= len(messages) <= 11


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "convnext-serve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "convnext-serve"


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf")


def test_a_terminal_gets_a_progress_bar(server, destination, monkeypatch, caplog):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    caplog.set_level(logging.INFO, "model.checkpoints.download")
    fetch(server.url, destination)
    assert "weights.bin" in terminal.getvalue()
    assert "1.0/1.0 MB" in terminal.getvalue()
    assert not caplog.records
