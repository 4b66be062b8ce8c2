"""A server process: how it drains on a signal, how many connections it allows, and errors at startup."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from app.http.server import Server, bind, serve
from app.main import create_app
from app.serving.service import ClassificationService
from app.settings import Settings
from tests.app.fake_engine import FakeEngine
from tests.app.http.server_process import COMMAND, PNG, Process, running, start_predict
from tests.app.http.slow_server import LOSE
from tests.app.types import Grey
from tests.conftest import Encode, MakePhoto
from tests.constants import ROOT, WAIT_S


@contextlib.contextmanager
def slow_server(grace_s: float) -> Iterator[tuple[Process, str]]:
    """A server that holds every batch until its input is closed, and its URL."""
    with running("-m", "tests.app.http.slow_server", str(grace_s)) as process:
        yield process, process.url()


def test_sigterm_completes_accepted_requests_and_rejects_new_ones(grey: Grey) -> None:
    with slow_server(grace_s=50) as (process, url), ThreadPoolExecutor() as pool:
        with httpx.Client(timeout=WAIT_S) as client:
            accepted = [start_predict(pool, url, grey(7))]
            process.wait_for("running")
            accepted.append(start_predict(pool, url, grey(8)))
            while "convnext_images_in_service 2.0" not in (metrics := client.get(f"{url}/metrics")).text:
                assert "connection" not in metrics.headers
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for("draining")
            live, ready = client.get(f"{url}/health/live"), client.get(f"{url}/health/ready")
            rejected = client.post(f"{url}/predict", content=grey(9), headers=PNG)
            process.close_input()
        completed = [future.result(WAIT_S) for future in accepted]
        assert process.popen.wait(WAIT_S) == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(process.popen.pid, 0)  # no child process is left
    assert [response.json()["predictions"][0]["class_id"] for response in completed] == [7, 8]
    assert live.status_code == 200
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    assert (rejected.status_code, rejected.json()["type"]) == (503, "unavailable")
    assert int(rejected.headers["retry-after"]) > 0
    for response in (live, ready, rejected, *completed):
        assert response.headers["connection"] == "close"


def test_a_batch_that_outlasts_the_grace_period_does_not_delay_the_exit(grey: Grey) -> None:
    with slow_server(grace_s=0.2) as (process, url), ThreadPoolExecutor() as pool:
        response = start_predict(pool, url, grey(7))
        process.wait_for("running")
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("engine_0")  # the thread that does not stop
        assert response.result(WAIT_S).json()["type"] == "unavailable"
        assert process.popen.wait(WAIT_S / 2) == 0


def test_a_lost_device_ends_the_server_so_that_it_is_restarted(grey: Grey) -> None:
    with slow_server(grace_s=1.0) as (process, url):
        response = httpx.post(f"{url}/predict", content=grey(LOSE), headers=PNG, timeout=WAIT_S)
        assert response.status_code == 503
        process.wait_for("CRITICAL.*injected")
        assert process.popen.wait(WAIT_S) == 1


@pytest.mark.anyio
async def test_a_failure_that_passes_does_not_end_the_server() -> None:
    """As after the process was suspended, when a batch seems to have hung until it is completed."""
    server = Server(create_app(Settings(), FakeEngine()), grace_s=1, max_connections=9, keep_alive_s=5)
    service = SimpleNamespace(status="failed", failure="injected")
    server.context.service = cast(ClassificationService, service)
    for _ in range(2):
        service.status = "failed"
        assert [await server.on_tick(1) for _ in range(20)] == [False] * 20
        service.status = "ready"
        assert not await server.on_tick(1)


def test_the_command_serves_and_ends_with_0_on_sigint(tiny_path: Path, encode: Encode, make_photo: MakePhoto) -> None:
    arguments = ["serve", "--port", "0", "--model", str(tiny_path), "--device", "cpu", "--max-batch-size", "1"]
    with running(str(COMMAND), *arguments, "--log-format", "json", "--root-path", "/vision") as process:
        url = process.url()
        assert httpx.get(f"{url}/openapi.json", timeout=WAIT_S).json()["servers"] == [{"url": "/vision"}]
        assert "/vision/docs" in httpx.get(f"{url}/predict", timeout=WAIT_S).json()["detail"]
        response = httpx.post(f"{url}/predict", files={"file": encode(make_photo(), "JPEG")}, timeout=WAIT_S)
        assert {item["label"] for item in response.json()["predictions"]} == {"ant", "bee", "cat", "dog", "eel"}
        assert "server" not in response.headers
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(WAIT_S) == 0


def test_an_application_that_fails_to_start_ends_with_an_error(tmp_path: Path) -> None:
    app = create_app(Settings(model=str(tmp_path / "absent.safetensors")))
    with bind("127.0.0.1", 0) as listener, pytest.raises(SystemExit) as caught:
        serve(Server(app, grace_s=1.0, max_connections=10, keep_alive_s=75), listener)
    assert caught.value.code not in (0, None)


def test_garbage_collection_skips_what_was_loaded_before_the_start(tmp_path: Path) -> None:
    gc.unfreeze()
    app = create_app(Settings(model=str(tmp_path / "missing.pth")))
    with bind("127.0.0.1", 0) as listener, pytest.raises(SystemExit):
        serve(Server(app, grace_s=1.0, max_connections=10, keep_alive_s=75), listener)
    assert gc.get_freeze_count() > 10_000
    gc.unfreeze()


class CountingServer(Server):
    """Counts the connections that it accepts."""

    def __init__(self) -> None:
        super().__init__(create_app(Settings()), grace_s=1.0, max_connections=100, keep_alive_s=75)
        self.accepted = 0
        self.first = asyncio.Event()

    def accept(self, connection: socket.socket) -> None:
        connection.close()
        self.accepted += 1
        self.first.set()


@pytest.mark.anyio
async def test_all_connections_that_wait_are_accepted_in_one_round_of_the_event_loop() -> None:
    server = CountingServer()
    with bind("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
        server.open(listener)
        for _ in range(50):
            stack.enter_context(socket.create_connection(listener.getsockname(), timeout=WAIT_S))
        async with asyncio.timeout(WAIT_S):
            await server.first.wait()
        asyncio.get_running_loop().remove_reader(listener)
        assert server.accepted == 50


def test_probes_above_the_limit_are_answered_however_many_arrive_at_once(tiny_path: Path) -> None:
    arguments = ["serve", "--port", "0", "--model", str(tiny_path), "--device", "cpu", "--max-connections", "4"]
    with running(str(COMMAND), *arguments) as process, contextlib.ExitStack() as stack:
        url = httpx.URL(process.url())
        idle = [stack.enter_context(socket.create_connection((url.host, url.port), WAIT_S)) for _ in range(4)]
        idle[0].sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[0].recv(12) == b"HTTP/1.1 200"
        process.popen.send_signal(signal.SIGSTOP)
        probes = [stack.enter_context(socket.create_connection((url.host, url.port), WAIT_S)) for _ in range(100)]
        for probe in probes:
            probe.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        process.popen.send_signal(signal.SIGCONT)
        assert {probe.recv(12) for probe in probes} == {b"HTTP/1.1 200"}


def test_connections_wait_while_no_file_descriptor_is_left() -> None:
    with slow_server(grace_s=1.0) as (process, url), httpx.Client(base_url=url, timeout=WAIT_S) as client:
        assert client.get("/health/live").status_code == 200
        pid, address = process.popen.pid, (client.base_url.host, client.base_url.port)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        used = set(map(int, os.listdir(f"/proc/{pid}/fd")))
        free = min(set(range(len(used) + 1)) - used)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (free, limits[1]))
        with socket.create_connection(address, timeout=WAIT_S) as waiting:
            waiting.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert [client.get("/health/live").status_code for _ in range(3)] == [200] * 3
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            waiting.settimeout(WAIT_S)
            assert waiting.recv(12) == b"HTTP/1.1 200"


def test_connections_are_limited_by_the_number_of_open_files() -> None:
    """200 files are reserved for other purposes; at least one connection is allowed."""
    code = (
        "import sys\n"
        "from resource import RLIMIT_NOFILE, getrlimit, setrlimit\n"
        "from app.http.server import allow_connections\n"
        "for line in sys.stdin:\n"
        "    soft, hard, wanted = map(int, line.split())\n"
        "    setrlimit(RLIMIT_NOFILE, (soft, hard))\n"
        "    print(allow_connections(wanted), *getrlimit(RLIMIT_NOFILE))\n"
    )
    cases = "500 1024 100\n500 1024 700\n500 1024 5000\n100 150 10\n"
    result = subprocess.run(
        [sys.executable, "-c", code], input=cases, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [tuple(map(int, line.split())) for line in result.stdout.splitlines()] == [
        (100, 500, 1024),
        (700, 900, 1024),
        (824, 1024, 1024),
        (1, 150, 150),
    ]
