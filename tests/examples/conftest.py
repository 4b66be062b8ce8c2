"""A real server with the embedded model, started as a process."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.constants import ROOT

START_S = 100.0
STOP_S = 30.0


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """The URL of the server, which ends with the tests."""
    command = [sys.executable, "-m", "app", "serve", "--host", "127.0.0.1", "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(START_S, process.kill)  # ends the wait for the log line
    timer.start()
    try:
        url = _wait_for_url(process)
        timer.cancel()
        yield url
    finally:
        timer.cancel()
        process.terminate()
        process.communicate(timeout=STOP_S)


def _wait_for_url(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found[0]
    raise RuntimeError(f"the server did not start: {''.join(lines)}")
