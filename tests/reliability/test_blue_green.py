"""The documented update of the model (blue/green) behind nginx, under load."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.constants import ROOT, WAIT_S
from tests.reliability.conftest import Start
from tests.reliability.images import gray
from tests.reliability.load import RESET, Connection, Report, Response, connect, post
from tests.reliability.nginx import Nginx, running_nginx
from tests.reliability.process import FAKE, ServerProcess, free_port, wait_until
from tests.reliability.report import Figures

FOLDER = ROOT / "docker" / "bluegreen" / "nginx"
SECTION = "Blue/green update behind nginx"
CLIENTS = 8
PAUSE_S = 0.02  # of each client after a response
RESPONSES = 200  # in each phase


@dataclass
class Load:
    """Clients that send requests until ``stop`` is set, and the models that responded in each phase."""

    port: int
    phase: str = "blue serves"
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    models: dict[str, Counter[str]] = field(default_factory=dict)
    report: Report = field(default_factory=Report)
    sent_again: int = 0

    async def run(self) -> None:
        """Runs all clients."""
        async with asyncio.TaskGroup() as group:
            for level in range(CLIENTS):
                group.create_task(self._client(post(gray(level), "image/png")))

    def wait_for_responses(self) -> None:
        """Waits until enough requests have begun and ended in the current phase."""
        wait_until(lambda: self.models.get(self.phase, Counter()).total() >= RESPONSES, WAIT_S)

    async def _client(self, request: bytes) -> None:
        connection = await connect(self.port)
        while not self.stop.is_set():
            phase, sent_at = self.phase, time.monotonic()
            connection, response = await self._send(connection, request)
            self.report.note(response, time.monotonic() - sent_at)
            if response.status == 200 and phase == self.phase:
                self.models.setdefault(phase, Counter())[json.loads(response.body)["model"]] += 1
            try:
                await asyncio.wait_for(self.stop.wait(), PAUSE_S)
            except TimeoutError:
                continue
        connection.close()

    async def _send(self, connection: Connection, request: bytes) -> tuple[Connection, Response]:
        """Sends once more if nginx closed the idle connection at that moment, as RFC 9112 (9.3.1) permits."""
        if connection.open:
            response = await connection.ask(request)
            if response.status != RESET:
                return connection, response
            self.sent_again += 1
        connection = await connect(self.port)
        return connection, await connection.ask(request)


def activate(folder: Path, name: str, process: ServerProcess) -> None:
    """Writes active.inc with the address of ``process`` instead of the service called ``name``."""
    text = (FOLDER / "active.inc").read_text().replace("blue", name)
    assert f"{name}:8000" in text
    (folder / "conf.d" / "active.inc").write_text(text.replace(f"{name}:8000", f"127.0.0.1:{process.port}"))


def nginx_configuration(port: int) -> str:
    """The configuration in docker/bluegreen with another address."""
    text = (FOLDER / "default.conf").read_text()
    assert "listen 80;" in text
    return text.replace("listen 80;", f"listen 127.0.0.1:{port};")


def update(load: Load, start: Start, blue: ServerProcess, nginx: Nginx, folder: Path) -> float:
    """The documented steps; returns how long nginx took to reload, in seconds."""
    green = start(*FAKE, model="green", decode_threads=1)
    load.wait_for_responses()
    load.phase = "nginx reloads"
    activate(folder, "green", green)
    started_at = time.monotonic()
    nginx.reload(WAIT_S)
    reload_s = time.monotonic() - started_at
    load.phase = "green serves"
    load.wait_for_responses()
    load.phase = "blue stops"
    assert blue.terminate(WAIT_S) == 0
    load.wait_for_responses()
    return reload_s


@pytest.mark.timeout(150)
def test_a_blue_green_update_fails_no_request(start: Start, tmp_path: Path, figures: Figures) -> None:
    port = free_port()
    load = Load(port)
    (tmp_path / "conf.d").mkdir()
    blue = start(*FAKE, model="blue", decode_threads=1)
    activate(tmp_path, "blue", blue)

    async def run(nginx: Nginx) -> float:
        loading = asyncio.create_task(load.run())
        try:
            return await asyncio.to_thread(update, load, start, blue, nginx, tmp_path)
        finally:
            load.stop.set()
            await loading

    with running_nginx(tmp_path, port, nginx_configuration(port)) as nginx:
        reload_s = asyncio.run(run(nginx))
    failed = {status: count for status, count in load.report.statuses.items() if status != 200}
    models = [", ".join(load.models[phase]) for phase in ("blue serves", "green serves", "blue stops")]
    figures.add(SECTION, "200", "others", "sent again", "models", "reload, s", "p50, ms", "p99, ms")
    latencies = [load.report.percentile_ms(200, percent) for percent in (50, 99)]
    figures.add(
        SECTION, load.report.statuses[200], failed or "none", load.sent_again, "; ".join(models), reload_s, *latencies
    )
    assert failed == {}
    assert models == ["blue", "green", "green"]
    assert load.sent_again <= CLIENTS  # nginx closes each connection once
