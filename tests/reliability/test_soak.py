"""Soak: at 80 % of capacity, memory, threads, file descriptors and latency do not grow."""

import asyncio
import importlib.util
import random
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.conftest import Start
from tests.reliability.images import damaged, encode, photo
from tests.reliability.load import Report, closed_loop, connect, open_loop, post
from tests.reliability.process import SERVICE, ServerProcess
from tests.reliability.report import Figures

SECTION = "Soak at 80 % of capacity"
MB = 1_000_000
BAD_SHARE = 0.2
SLICE_S = 5.0
PLOT = Path("docs/reliability.png")


@dataclass(frozen=True)
class Sample:
    """The state of the process after one slice of the load."""

    at_s: float
    memory_mb: float
    threads: int
    files: int
    p99_ms: float


def mixed_requests() -> list[bytes]:
    """Photos, and damaged photos in a share of ``BAD_SHARE``."""
    generator = random.Random(0)  # noqa: S311 - repeatable damage
    files = [encode(photo(seed=seed), "JPEG") for seed in range(16)]
    bodies = [damaged(file, generator) if generator.random() < BAD_SHARE else file for file in files * 8]
    assert any(body not in files for body in bodies)
    return [post(body) for body in bodies]


async def soak(
    server: ServerProcess, rate: float, seconds: float, requests: list[bytes]
) -> tuple[Report, list[Sample]]:
    """All responses, and one sample per slice."""
    total = Report()
    samples: list[Sample] = []
    started_at = time.monotonic()
    while (at_s := time.monotonic() - started_at) < seconds:
        report = await open_loop(server.port, requests, rate, SLICE_S, seed=len(samples))
        for status, latencies in report.latencies.items():
            total.statuses[status] += len(latencies)
        p99_ms = report.percentile_ms(200, 99)
        samples.append(Sample(at_s, server.memory() / MB, server.threads(), server.files(), p99_ms))
    return total, samples


def test_nothing_grows(start: Start, figures: Figures, long: bool) -> None:
    server = start(*SERVICE)
    requests = mixed_requests()
    asyncio.run(closed_loop(server.port, requests, 16, 3))
    capacity = asyncio.run(closed_loop(server.port, requests, 16, 6))
    rate = 0.8 * sum(capacity.statuses.values()) / capacity.seconds
    report, samples = asyncio.run(soak(server, rate, 3600 if long else 45, requests))
    figures.add(SECTION, "third", "RSS, MB", "threads", "file descriptors", "p99, ms (median of 5 s slices)")
    third = len(samples) // 3
    thirds = [samples[:third], samples[third : 2 * third], samples[2 * third :]]
    rows = [
        [
            statistics.median(getattr(sample, name) for sample in part)
            for name in ("memory_mb", "threads", "files", "p99_ms")
        ]
        for part in thirds
    ]
    for number, row in enumerate(rows, 1):
        figures.add(SECTION, number, *row)
    tally = ", ".join(f"{status}: {count}" for status, count in sorted(report.statuses.items()))
    figures.add(f"{SECTION}: responses", "requests/s", "statuses")
    figures.add(f"{SECTION}: responses", rate, tally)
    if importlib.util.find_spec("matplotlib") is not None and long:
        draw(samples, PLOT)
    (first_memory, first_threads, first_files, _), (memory, threads, files, _) = rows[0], rows[2]
    assert set(report.statuses) <= {200, 415, 422, 503}
    assert report.statuses[200] > 0
    assert memory < 1.1 * first_memory + 20
    assert threads <= first_threads + 2
    assert files <= first_files + 32  # connections of the load
    assert asyncio.run(is_open(server.port))


async def is_open(port: int) -> bool:
    """Whether a new connection is accepted and served."""
    connection = await connect(port)
    response = await connection.ask(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    connection.close()
    return response.status == 200


def draw(samples: list[Sample], path: Path) -> None:
    """Plots memory and p99 over time."""
    from matplotlib import pyplot

    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(6, 4), layout="constrained")
    times = [sample.at_s for sample in samples]
    above.plot(times, [sample.memory_mb for sample in samples])
    above.set_ylabel("RSS, MB")
    below.plot(times, [sample.p99_ms for sample in samples])
    below.set_ylabel("p99, ms")
    below.set_xlabel("s")
    figure.savefig(path, dpi=80)
