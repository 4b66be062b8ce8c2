"""Overload: at several times its capacity, the service completes about as much as before and rejects the rest fast."""

import asyncio
import time
from collections.abc import Iterator

import pytest

from tests.reliability.images import encode, photo
from tests.reliability.load import RESET, Report, closed_loop, connect, open_loop, percentile, post
from tests.reliability.process import SERVICE, ServerProcess
from tests.reliability.report import Figures

SECTION = "Overload"
AFTERWARDS = "After the overload"
HEALTH = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
MB = 1_000_000
MIN_GOODPUT = {2: 0.6, 5: 0.4, 10: 0.05}  # of the capacity, by load; the generator takes part of the same cores
MAX_REJECTION_MS = {2: 50, 5: 50, 10: 500}  # median, by load
MAX_HEALTH_MS = {2: 100, 5: 100, 10: 500}  # median, by load; Kubernetes' probes wait for 1 s
MAX_MEMORY_GROWTH = 200 * MB


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> Iterator[ServerProcess]:
    """The service as it is shipped."""
    columns = ("load", "offered/s", "completed/s", "of capacity, %", "200 p50/p99, ms", "503 p50/p99, ms")
    figures.add(SECTION, *columns, "/health p50/p99, ms", "resets", "unsent", "RSS, MB", "generator CPU, %")
    figures.add(AFTERWARDS, "load", "p50/p99 before, ms", "p50/p99 within 2 s after, ms", "Retry-After, s")
    with ServerProcess(tmp_path_factory.mktemp("overload") / "log", *SERVICE, port=0) as process:
        yield process.wait_until_ready()


@pytest.fixture(scope="module")
def requests() -> list[bytes]:
    """Photos of 500 × 375 pixels."""
    return [post(encode(photo(seed=seed), "JPEG", quality=85)) for seed in range(16)]


@pytest.fixture(scope="module")
def capacity(server: ServerProcess, requests: list[bytes], figures: Figures, long: bool) -> float:
    """Images per second in a closed loop of 32 connections."""
    asyncio.run(closed_loop(server.port, requests, 32, 3))  # the measured rate settles
    report = asyncio.run(closed_loop(server.port, requests, 32, 60 if long else 8))
    latency = f"{report.percentile_ms(200, 50):.0f} / {report.percentile_ms(200, 99):.0f}"
    memory = server.memory() / MB
    figures.add(SECTION, "closed loop, 32 connections", "", report.rate, 100.0, latency, "", "", 0, 0, memory, "")
    assert report.statuses[RESET] == 0
    return report.rate


async def probe_health(port: int, seconds: float) -> list[float]:
    """Latencies of /health in seconds, asked for every 100 ms, or at once if the last response took longer."""
    connection = await connect(port)
    latencies = []
    started_at = due = time.monotonic()
    while due < started_at + seconds:
        await asyncio.sleep(due - time.monotonic())
        response = await connection.ask(HEALTH)
        assert response.status == 200
        latencies.append(time.monotonic() - due)
        due = max(due + 0.1, time.monotonic())
    connection.close()
    return latencies


async def overload(port: int, requests: list[bytes], rate: float, seconds: float) -> tuple[Report, list[float]]:
    """The load's report and the latencies of /health meanwhile."""
    load = open_loop(port, requests, rate, seconds)
    report, health = await asyncio.gather(load, probe_health(port, seconds))
    return report, health


@pytest.mark.parametrize("factor", [2, 5, 10])
def test_overload_keeps_goodput_and_rejects_the_rest(
    server: ServerProcess, requests: list[bytes], capacity: float, figures: Figures, long: bool, factor: int
) -> None:
    before = asyncio.run(open_loop(server.port, requests, 0.3 * capacity, 2, seed=1))
    memory, cpu_s, started_at = server.memory(), time.process_time(), time.monotonic()
    report, health = asyncio.run(overload(server.port, requests, factor * capacity, 300 if long else 10))
    cpu = 100 * (time.process_time() - cpu_s) / (time.monotonic() - started_at)
    growth = server.memory() - memory
    after = asyncio.run(open_loop(server.port, requests, 0.3 * capacity, 2, seed=2))
    figures.add(
        SECTION,
        f"open loop, {factor}×",
        factor * capacity,
        report.rate,
        100 * report.rate / capacity,
        span(report.latencies.get(200, [])),
        span(report.latencies.get(503, [])),
        span(health),
        report.statuses[RESET],
        report.unsent,
        server.memory() / MB,
        cpu,
    )
    seconds = sorted(int(value) for value in report.retry_after)
    retry = f"{seconds[0]} to {seconds[-1]}"
    figures.add(AFTERWARDS, f"{factor}×", span(before.latencies[200]), span(after.latencies[200]), retry)
    assert set(report.statuses) == {200, 503}, report.resets
    assert seconds[0] >= 1
    assert report.rate > MIN_GOODPUT[factor] * capacity
    assert report.percentile_ms(503, 50) < MAX_REJECTION_MS[factor]
    assert 1000 * percentile(health, 50) < MAX_HEALTH_MS[factor]
    assert growth < MAX_MEMORY_GROWTH
    assert set(after.statuses) == {200}
    assert after.percentile_ms(200, 50) < 5 * before.percentile_ms(200, 50) + 100


def span(latencies: list[float]) -> str:
    """The median and the 99th percentile in milliseconds, as text."""
    return f"{1000 * percentile(latencies, 50):.0f} / {1000 * percentile(latencies, 99):.0f}"
