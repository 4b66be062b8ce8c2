"""fetch against a file server that fails; files of the Hub are in test_hub.py."""

import errno
import hashlib
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

from model.checkpoints.download import default_cache_dir, digest_file, fetch
from model.errors import DownloadError
from tests.constants import WAIT_S

BODY = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(BODY).hexdigest()


class FileServer:
    """Serves ``BODY``, of which it sends the first ``sent_bytes``, or the status ``status``."""

    def __init__(self) -> None:
        self.sent_bytes, self.status = len(BODY), 200
        self.methods: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.request_received = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                server.respond(self, 0)

            def do_GET(self) -> None:
                server.respond(self, server.sent_bytes)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/weights.bin"

    def respond(self, request: BaseHTTPRequestHandler, sent_bytes: int) -> None:
        self.methods.append(request.command)
        self.request_received.set()
        assert self.gate.wait(WAIT_S)
        if self.status != 200:
            request.send_error(self.status)
            return
        request.send_response(200)
        request.send_header("Content-Length", str(len(BODY)))
        request.end_headers()
        request.wfile.write(BODY[:sent_bytes])


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


@pytest.mark.parametrize("sha256", [None, DIGEST[:8], DIGEST], ids=["unknown", "prefix", "whole"])
def test_fetches_and_verifies_a_file_and_records_its_digest(
    server: FileServer, destination: Path, sha256: str | None
) -> None:
    assert fetch(server.url, destination, sha256=sha256) == DIGEST
    assert destination.read_bytes() == BODY
    assert digest_file(destination).read_text() == f"{DIGEST}  weights.bin\n"


def test_does_not_fetch_an_existing_file(server: FileServer, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(BODY)
    assert fetch(server.url, destination) == DIGEST
    assert not server.methods


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["unknown", "whole"])
def test_discards_a_file_that_is_not_complete(server: FileServer, destination: Path, sha256: str | None) -> None:
    server.sent_bytes = 500_000
    with pytest.raises(DownloadError):
        fetch(server.url, destination, sha256=sha256)
    assert [path.name for path in destination.parent.iterdir()] == ["weights.bin.lock"]
    server.sent_bytes = len(BODY)
    assert fetch(server.url, destination, sha256=sha256) == DIGEST


def test_discards_a_file_with_a_different_digest(server: FileServer, destination: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(server.url, destination, sha256="0123abcd")
    assert all(part in str(caught.value) for part in (server.url, str(destination), DIGEST, "0123abcd"))
    assert [path.name for path in destination.parent.iterdir()] == ["weights.bin.lock"]


@pytest.mark.parametrize("status", [404, 503])
def test_names_the_status_of_the_server(server: FileServer, destination: Path, status: int) -> None:
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        fetch(server.url, destination)


@pytest.mark.parametrize("sha256", [None, DIGEST], ids=["unknown", "whole"])
def test_fails_if_the_server_does_not_respond(server: FileServer, destination: Path, sha256: str | None) -> None:
    server.gate.clear()
    with pytest.raises(DownloadError, match="timed out"):
        fetch(server.url, destination, sha256=sha256, timeout_s=0.1)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/weights.bin", "x://example.org/x", "http://[/"])
def test_names_the_file_to_provide_if_the_url_cannot_be_fetched(url: str, destination: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch(url, destination)
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
    assert not server.methods


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_named(server: FileServer, destination: Path) -> None:
    destination.parent.mkdir()
    digest_file(destination).symlink_to("/dev/full")
    with pytest.raises(DownloadError, match=re.escape(os.strerror(errno.ENOSPC))) as caught:
        fetch(server.url, destination)
    assert_names_the_cache_folder(caught.value, destination.parent)


def test_only_one_of_several_calls_fetches_the_file(server: FileServer, destination: Path) -> None:
    server.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(fetch, server.url, destination, sha256=DIGEST) for _ in range(4)]
        assert server.request_received.wait(WAIT_S)
        server.gate.set()
        assert [future.result(WAIT_S) for future in futures] == [DIGEST] * 4
    assert server.methods == ["GET"]


def test_waits_for_another_process_for_a_limited_time(server: FileServer, destination: Path) -> None:
    destination.parent.mkdir()
    with FileLock(f"{destination}.lock"), pytest.raises(DownloadError, match=r"weights\.bin\.lock"):
        fetch(server.url, destination, lock_timeout_s=0.05)


def test_the_environment_sets_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "convnext-serve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "convnext-serve"
