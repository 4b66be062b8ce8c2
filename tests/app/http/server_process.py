"""A server process whose output tests await."""

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.constants import ROOT, WAIT_S

COMMAND = Path(sys.executable).with_name("convnext-serve")  # as it is installed
PNG = {"content-type": "image/png"}


class Process:
    """A server process whose output can be awaited line by line."""

    def __init__(self, *arguments: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._output: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Waits for a line of the output that matches."""
        while line := self._lines.get(timeout=WAIT_S):
            self._output.append(line)
            if match := re.search(pattern, line):
                return match
        pytest.fail(f"the process ended before {pattern!r}: {''.join(self._output)}")

    def url(self) -> str:
        """Waits until the server listens."""
        url = self.wait_for(r'listening on (http://[^\s"]+:\d+)')[1]
        with httpx.Client(transport=httpx.HTTPTransport(retries=20), timeout=WAIT_S) as client:
            assert client.get(f"{url}/health/ready").status_code == 200
        return url

    def wait_for_end(self) -> None:
        """Waits until no process has the output open any more."""
        while line := self._lines.get(timeout=WAIT_S):
            self._output.append(line)

    def close_input(self) -> None:
        """Opens the gate of ``slow_server``."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("")


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[Process]:
    """A process of ``python *arguments`` that is killed at the end."""
    process = Process(*arguments)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.popen.pid, signal.SIGKILL)
        process.popen.wait(WAIT_S)


def start_predict(pool: ThreadPoolExecutor, url: str, image: bytes) -> Future[httpx.Response]:
    return pool.submit(httpx.post, f"{url}/predict", content=image, headers=PNG, timeout=WAIT_S)
