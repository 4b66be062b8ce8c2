"""Requests per second and latency over HTTP: convnext_tiny, JPEGs of 110 kB, by number of worker processes.

The load generator shares the cores with the service. Without the option ``--workers`` one process is measured.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import uvloop

from benchmarks.gpu.step import SMALL, Options, Results, build, photos_of, start
from benchmarks.service.load import closed_loop, make_requests
from benchmarks.service.servers import ROOT, Launch, free_port, running

WORKERS = (4, 1, 6)
CONNECTIONS = (64, 128)
SECONDS = 8.0
WARMUP_S = 2.0
START_S = 25.0


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
        "CONVNEXT_LOG_LEVEL": "warning",
        "CONVNEXT_MAX_QUEUE_WAIT_S": "10",
    }
    return Launch(command, "/predict", False, environment)


def measure(weights: Path, workers: int | None, photos: list[bytes], options: Options, results: Results) -> None:
    """All numbers of connections with one number of workers."""
    port = free_port()
    seconds = 1.0 if options.small else SECONDS
    with tempfile.TemporaryDirectory() as folder:
        started = launch(weights, port, workers, options)
        with running(started, port, photos[0], Path(folder)) as url:
            requests = make_requests(url, photos, started.multipart)
            for connections in CONNECTIONS:
                report = uvloop.run(closed_loop(url, requests, connections, seconds, WARMUP_S)).summary()
                results.add(f"{workers or 1} workers, {connections} connections", report)


def main() -> None:
    options, results = start(__doc__)
    _, network = build(SMALL if options.small else "tiny")
    photos = photos_of(4 if options.small else 16, size_bytes=110_000)
    counts: tuple[int | None, ...] = (None,)
    if has_workers_option():
        counts = (2,) if options.small else WORKERS
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pth"
        torch.save(network.state_dict(), weights)
        for workers in counts:
            if options.seconds_left < START_S:
                results.add("not measured for lack of time", f"{workers} workers")
                continue
            with results.attempt(f"{workers or 1} workers"):
                measure(weights, workers, photos, options, results)


if __name__ == "__main__":
    main()
