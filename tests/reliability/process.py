"""A server in a process of its own, and what the operating system reports about it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from tests.constants import ROOT

START_S = 90
WORKERS = int(os.environ.get("WORKERS", "1"))  # of each server
SERVICE = ("-m", "app", "serve")
FAKE = ("-m", "tests.reliability.fault_server")


class ServerProcess:
    """Runs ``python ARGUMENTS`` with ``settings`` as CONVNEXT_* variables; its stderr goes to the file ``log_path``.

    The environment variable WORKERS is the number of worker processes of each.
    """

    def __init__(self, log_path: Path, *arguments: str, stderr: int | None = None, **settings: object) -> None:
        self.log_path = log_path
        self.port = 0
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CONVNEXT_")}
        environment["CONVNEXT_WORKERS"] = str(WORKERS)
        environment |= {f"CONVNEXT_{name.upper()}": str(value) for name, value in settings.items()}
        with log_path.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log if stderr is None else stderr,
                text=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                pipe.close()

    def wait_until_ready(self) -> Self:
        """Waits until the port is known and /health returns 200."""
        if not self.port:
            wait_until(lambda: self._announced() or self.popen.poll() is not None, START_S)
            assert self.popen.poll() is None, self.log()
            self.port = self._announced()
        wait_until(lambda: self.status("/health/ready") == 200, START_S)
        return self

    def command(self, text: str) -> None:
        """Sends one line to the fault server and waits until it has taken effect."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(text + "\n")
        self.popen.stdin.flush()
        assert self.popen.stdout.readline() == "ok\n"

    def terminate(self, timeout_s: float) -> int:
        """Sends SIGTERM and returns the exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout_s)

    def log(self) -> str:
        """Everything that the process has written to stderr."""
        return self.log_path.read_text()

    def status(self, path: str) -> int:
        """The status of ``GET path``; 0 if the connection fails."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).status_code
        except httpx.TransportError:
            return 0

    def json(self, path: str) -> dict[str, Any]:  # Any: JSON
        """The JSON object that ``GET path`` returns."""
        body: dict[str, Any] = json.loads(httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=10).content)
        return body

    def metric(self, name: str) -> float:
        """The sum of the samples of a metric whose line begins with ``name``."""
        lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def memory(self, field: str = "VmRSS") -> int:
        """A memory field of /proc/PID/status in bytes, of all workers together; ``VmHWM`` is the peak."""
        return 1024 * self._field(field)

    def threads(self) -> int:
        """How many threads the process and its workers have."""
        return self._field("Threads")

    def files(self) -> int:
        """How many file descriptors are open."""
        return sum(len(os.listdir(folder / "fd")) for folder in self._folders())

    def cpu_s(self) -> float:
        """The CPU time that the process and its workers have used, in seconds."""
        fields = [(folder / "stat").read_text().rpartition(")")[2].split() for folder in self._folders()]
        return sum(int(values[11]) + int(values[12]) for values in fields) / os.sysconf("SC_CLK_TCK")

    def _field(self, name: str) -> int:
        texts = [(folder / "status").read_text() for folder in self._folders()]
        return sum(int(found) for text in texts for found in re.findall(rf"^{name}:\s+(\d+)", text, re.MULTILINE))

    def _folders(self) -> list[Path]:
        """The folders in /proc of the process and of its children, which are the workers and multiprocessing's own."""
        own = Path(f"/proc/{self.popen.pid}")
        children = [path.read_text().split() for path in own.glob("task/*/children")]
        return [own, *(Path("/proc") / pid for pids in children for pid in pids)]

    def _announced(self) -> int:
        match = re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log())
        return int(match[1]) if match else 0


def wait_until(condition: Callable[[], object], timeout_s: float) -> float:
    """Waits for another process, which has no event to wait on; returns how long it took in seconds."""
    started_at = time.monotonic()
    while not condition():
        elapsed_s = time.monotonic() - started_at
        assert elapsed_s < timeout_s, f"not within {timeout_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - started_at


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
