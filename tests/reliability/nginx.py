"""nginx in a process of its own."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.process import wait_until

_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_START_S = 10
_STOP_S = 60


@dataclass(frozen=True)
class Nginx:
    """A running nginx."""

    command: Sequence[str]
    pid: int  # of the master process

    def reload(self, timeout_s: float) -> None:
        """Runs ``nginx -s reload`` and waits until the workers with the old configuration have exited."""
        old = self.workers()
        subprocess.run([*self.command, "-s", "reload"], check=True, timeout=timeout_s)
        wait_until(lambda: not old & self.workers(), timeout_s)

    def workers(self) -> set[str]:
        """The ids of the worker processes."""
        return set(Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())


@contextmanager
def running_nginx(folder: Path, port: int, http: str) -> Iterator[Nginx]:
    """Runs nginx with the directives ``http``, which listen on ``port``; skips the test if it is not installed.

    Paths in ``http`` are relative to ``folder``.
    """
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    path = folder / "nginx.conf"
    path.write_text(_configuration(folder, http))
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(path)]
    with subprocess.Popen(command) as process:
        nginx = Nginx(command, process.pid)
        try:
            wait_until(lambda: nginx.workers() and _listens(port), _START_S)
            yield nginx
        finally:
            _stop(process)


def _configuration(folder: Path, http: str) -> str:
    paths = "".join(f"{name}_temp_path {folder}/{name};" for name in _TEMPORARY)
    main = f"pid {folder}/pid; error_log {folder}/error.log; daemon off; worker_processes 1; events {{}}"
    return f"{main}\nhttp {{ access_log off; {paths}\n{http}\n}}\n"


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
