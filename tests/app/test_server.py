"""Signals to a real process: what was accepted is answered, and the process ends with 0."""

import contextlib
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.server import bind, serve

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("convnext-serve")  # as it is installed
WAIT_S = 60
PNG = {"content-type": "image/png"}


class Process:
    """A server process and what it says, line by line."""

    def __init__(self, *arguments: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.said: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("")

    def wait_for(self, pattern: str) -> re.Match[str]:
        while line := self._lines.get(timeout=WAIT_S):
            self.said.append(line)
            if match := re.search(pattern, line):
                return match
        pytest.fail(f"it ended without saying {pattern!r}: {''.join(self.said)}")

    def url(self) -> str:
        return self.wait_for(r"listening on (http://\S+:\d+)")[1]


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Process]:
    process = Process(*arguments)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait(WAIT_S)


def wait_until_up(client: httpx.Client, url: str) -> None:
    """The port is bound, and named, before it listens."""
    transport = httpx.HTTPTransport(retries=20)
    with httpx.Client(transport=transport, timeout=WAIT_S) as patient:
        assert patient.get(f"{url}/health").status_code == 200
    assert client.get(f"{url}/health/ready").status_code == 200


def test_sigterm_lets_what_was_accepted_be_answered(tmp_path, grey):
    gate = tmp_path / "gate"
    with running("-m", "tests.app.slow_server", str(gate), "50") as process, ThreadPoolExecutor() as pool:
        url = process.url()
        with httpx.Client(timeout=WAIT_S) as client:
            wait_until_up(client, url)
            answers = [pool.submit(httpx.post, f"{url}/predict", content=grey(7), headers=PNG, timeout=WAIT_S)]
            process.wait_for("running")
            answers.append(pool.submit(httpx.post, f"{url}/predict", content=grey(8), headers=PNG, timeout=WAIT_S))
            while "convnext_images_in_service 2.0" not in client.get(f"{url}/metrics").text:
                pass
            process.popen.send_signal(signal.SIGTERM)
            process.wait_for("draining")
            refused = httpx.get(f"{url}/health/ready", timeout=WAIT_S)  # on a connection of its own
            assert (refused.status_code, refused.json()["status"]) == (503, "draining")
            assert httpx.get(f"{url}/health/live", timeout=WAIT_S).status_code == 200
            late = client.post(f"{url}/predict", content=grey(9), headers=PNG)
            assert (late.status_code, late.json()["type"]) == (503, "unavailable")
            gate.touch()
            assert [answer.result(WAIT_S).json()["predictions"][0]["class_id"] for answer in answers] == [7, 8]
        assert process.popen.wait(WAIT_S) == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(process.popen.pid, 0)  # nothing that it started lives on


def test_after_the_grace_a_run_that_does_not_end_keeps_nobody(tmp_path, grey):
    with (
        running("-m", "tests.app.slow_server", str(tmp_path / "never"), "0.2") as process,
        ThreadPoolExecutor() as pool,
    ):
        url = process.url()
        with httpx.Client(timeout=WAIT_S) as client:
            wait_until_up(client, url)
        answer = pool.submit(httpx.post, f"{url}/predict", content=grey(7), headers=PNG, timeout=WAIT_S)
        process.wait_for("running")
        process.popen.send_signal(signal.SIGTERM)
        process.wait_for("1 requests were not completed within the grace")
        process.wait_for("engine_0 did not stop")
        assert answer.result(WAIT_S).json()["type"] == "unavailable"
        assert process.popen.wait(WAIT_S / 2) == 0


def test_the_command_serves_and_ends_on_either_signal(tiny_path, encode, make_photo):
    arguments = ["serve", "--port", "0", "--model", str(tiny_path), "--device", "cpu", "--max-batch-size", "1"]
    with running(str(COMMAND), *arguments, "--log-format", "json") as process:
        url = process.wait_for(r'listening on (http://[^\s"]+)')[1]
        with httpx.Client(timeout=WAIT_S) as client:
            wait_until_up(client, url)
            answer = client.post(f"{url}/predict", files={"file": encode(make_photo(), "JPEG")})
            assert {one["label"] for one in answer.json()["predictions"]} == {"ant", "bee", "cat", "dog", "eel"}
            assert "server" not in answer.headers
            process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(WAIT_S) == 0


def test_an_application_that_does_not_start_is_an_error(make_app, engine):
    app = make_app(max_queue_size=1)
    engine.model.labels = None  # the lifespan stumbles over it
    with bind("127.0.0.1", 0) as listener, pytest.raises(SystemExit) as caught:
        serve(app, listener, grace_s=1.0, max_connections=10)
    assert caught.value.code not in (0, None)


def test_an_address_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", taken.getsockname()[1])


def test_a_bound_socket_knows_its_port():
    with bind("127.0.0.1", 0) as listener:
        assert listener.getsockname()[1] > 0
