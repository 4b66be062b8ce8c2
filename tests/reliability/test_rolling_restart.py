"""A rolling restart of two replicas behind nginx, configured as documented, under load."""

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.constants import ROOT
from tests.reliability.images import gray
from tests.reliability.load import Report, connect, post
from tests.reliability.nginx import running_nginx
from tests.reliability.process import FAKE, ServerProcess, free_port
from tests.reliability.report import Figures

CLIENTS = 8  # below the documented limit_conn
SETTLED_S = 11.0  # nginx does not try a replica that failed for 10 s


def nginx_configuration(port: int, replicas: list[int]) -> str:
    """The documented configuration with other addresses and without TLS."""
    text = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs/operations.md").read_text(), re.DOTALL)[0]
    servers = "".join(f"server 127.0.0.1:{replica}{options(text)}; " for replica in replicas)
    text = re.sub(r"server 127\.0\.0\.1:8000[^;]*;", servers, text)
    text = re.sub(r"listen 443 ssl;", f"listen 127.0.0.1:{port};", text)
    return re.sub(r"ssl_certificate.*", "", text)


def options(text: str) -> str:
    """The parameters of the documented upstream server."""
    match = re.search(r"server 127\.0\.0\.1:8000([^;]*);", text)
    assert match
    return match[1]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[tuple[int, list[int]]]:
    """A running nginx: its port, and the ports of its two replicas."""
    port, replicas = free_port(), [free_port(), free_port()]
    with running_nginx(tmp_path, port, nginx_configuration(port, replicas)):
        yield port, replicas


async def load(port: int, stop: asyncio.Event) -> Report:
    """The report of clients that send requests through nginx until ``stop`` is set."""
    report = Report()

    async def work(level: int) -> None:
        connection = await connect(port)
        while not stop.is_set():
            if not connection.open:
                connection = await connect(port)
            sent_at = time.monotonic()
            report.note(await connection.ask(post(gray(level), "image/png")), time.monotonic() - sent_at)
        connection.close()

    await asyncio.gather(*(work(level) for level in range(CLIENTS)))
    return report


def replica(stack: ExitStack, folder: Path, port: int) -> ServerProcess:
    """A replica on ``port`` that is ready."""
    process = ServerProcess(folder / f"{port}_{time.monotonic_ns()}.log", *FAKE, port=port, decode_threads=1)
    process.port = port
    return stack.enter_context(process).wait_until_ready()


def test_a_rolling_restart_fails_no_request(nginx: tuple[int, list[int]], tmp_path: Path, figures: Figures) -> None:
    port, ports = nginx
    with ExitStack() as stack:
        running = [replica(stack, tmp_path, replica_port) for replica_port in ports]

        def restart() -> None:
            for process in running:
                assert process.terminate(30) == 0
                replica(stack, tmp_path, process.port)
                time.sleep(SETTLED_S)  # nginx has no event for it

        async def run() -> Report:
            stop = asyncio.Event()
            loading = asyncio.create_task(load(port, stop))
            try:
                await asyncio.to_thread(restart)
            finally:
                stop.set()
            return await loading

        report = asyncio.run(run())
    section = "Rolling restart of two replicas behind nginx"
    figures.add(section, "200", "other statuses and resets", "p50, ms", "p99, ms", "slowest, ms")
    failed = {status: count for status, count in report.statuses.items() if status != 200}
    slowest = [report.percentile_ms(200, percent) for percent in (50, 99, 100)]
    figures.add(section, report.statuses[200], failed or "none", *slowest)
    assert failed == {}
    assert report.statuses[200] > 0
