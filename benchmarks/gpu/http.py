"""Requests per second and latency over HTTP: convnext_tiny, JPEGs of 110 kB, by number of worker processes.

The load generators share the cores with the service, which logs every request, as it does by default. Without the
option ``--workers`` one process is measured.
"""

import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
import uvloop

from benchmarks.gpu.step import SMALL, Options, Results, build, photos_of, start
from benchmarks.service.load import Report, closed_loop, make_requests
from benchmarks.service.servers import ROOT, Launch, free_port, running, wait_for_workers

WORKERS = (4, 1, 6)
CONNECTIONS = (64, 128)
GENERATORS = 4  # processes; one of them would be slower than the service
SECONDS = 5.0
WARMUP_S = 1.0
MEASURE_S = len(CONNECTIONS) * (SECONDS + WARMUP_S + 1)  # of one number of workers
MIN_START_S = 10.0  # with less time for the start, nothing more is measured
MAX_START_S = 60.0


def has_workers_option() -> bool:
    """Whether the service can run several processes."""
    command = [sys.executable, "-m", "app", "serve", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    return "--workers" in done.stdout


def launch(weights: Path, port: int, workers: int | None, options: Options) -> Launch:
    """How to start the service."""
    command = [sys.executable, "-m", "app", "serve", "--port", str(port)]
    if workers is not None:
        command += ["--workers", str(workers)]
    environment = {
        "CONVNEXT_MODEL": str(weights),
        "CONVNEXT_DEVICE": options.device,
        "CONVNEXT_MAX_QUEUE_WAIT_S": "10",
        "CONVNEXT_SHUTDOWN_GRACE_S": "2",
    }
    return Launch(command, "/predict", False, environment)


def generate(url: str, requests: list[bytes], connections: int, seconds: float) -> Report:
    """Runs in a process of its own."""
    return uvloop.run(closed_loop(url, requests, connections, seconds, WARMUP_S))


def measure(
    weights: Path,
    workers: int | None,
    photos: list[bytes],
    pool: ProcessPoolExecutor,
    options: Options,
    results: Results,
) -> None:
    """All numbers of connections with one number of workers."""
    port = free_port()
    start_s = min(MAX_START_S, options.seconds_left - MEASURE_S)
    seconds = 1.0 if options.small else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        started = launch(weights, port, workers, options)
        began = time.monotonic()
        with running(started, port, photos[0], Path(folder), start_s) as url:
            log = wait_for_workers(Path(folder), workers or 1, began + start_s)
            served = re.findall(r"main: serving (.*)", log)  # device, paths and rate of each
            parts = re.findall(r"timing: (.*) s$", log, re.MULTILINE)  # seconds of the parts of each start
            figures = {"served": served, "start s": time.monotonic() - began, "parts of the start": parts}
            results.add(f"{workers or 1} workers", figures)
            requests = make_requests(url, photos, started.multipart)
            for connections in CONNECTIONS:
                loads = [
                    pool.submit(generate, url, requests, connections // GENERATORS, seconds) for _ in range(GENERATORS)
                ]
                report = Report.joined([load.result() for load in loads])
                results.add(f"{workers or 1} workers, {connections} connections", report.summary())


def main() -> None:
    options, results = start(__doc__)
    _, network = build(SMALL if options.small else "tiny")
    photos = photos_of(4 if options.small else 16, size_bytes=110_000)
    counts: tuple[int | None, ...] = (None,)
    if has_workers_option():
        counts = (2,) if options.small else WORKERS
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(GENERATORS, mp_context=spawn) as pool:
        pool.map(time.sleep, [0.1] * GENERATORS)  # starts all of them
        weights = Path(folder) / "weights.pth"
        torch.save(network.state_dict(), weights)
        for workers in counts:
            if options.seconds_left < MEASURE_S + MIN_START_S:
                results.add(f"{workers or 1} workers", "not measured for lack of time")
                continue
            with results.attempt(f"{workers or 1} workers failed"):
                measure(weights, workers, photos, pool, options, results)


if __name__ == "__main__":
    main()
