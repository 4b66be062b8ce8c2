"""Requests per second and memory of this service by number of worker processes, in one run.

    python -m benchmarks.workers --workers 1 2 --connections 16 64
    python -m benchmarks.workers --model convnext_tiny --workers 1 2 4

Images are sent as the body of requests. In every round each number of workers is started, measured and stopped, in
alternating order. The load generator runs on the same cores. Memory is the proportional set size (PSS) of all processes
in MB: pages that several processes share count once.
"""

import argparse
import os
import re
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.photos import make_photos
from benchmarks.rounds import alternate, keep, ratios, spread
from benchmarks.service.load import closed_loop, make_requests
from benchmarks.service.servers import REQUEST_TIMEOUT_S, START_S, free_port, running, this_project, wait_for_workers
from model import DEFAULT_MODEL

WARMUP_S = 2.0

Figures = dict[str, Any]  # Any: written to JSON as it is


def memory_mb(port: int) -> dict[str, float]:
    """PSS of the server on ``port`` in MB: of all its processes, and of the largest."""
    found = subprocess.run(["pgrep", "-f", f"app serve --port {port}"], capture_output=True, text=True, check=True)
    parent = found.stdout.split()[0]
    children = subprocess.run(["pgrep", "-P", parent], capture_output=True, text=True, check=False).stdout.split()
    sizes = [pss_mb(Path(f"/proc/{pid}/smaps_rollup")) for pid in (parent, *children)]
    return {"all": round(sum(sizes)), "largest": round(max(sizes))}


def pss_mb(path: Path) -> float:
    """The PSS in a file ``smaps_rollup``, in MB."""
    match = re.search(r"^Pss: +(\d+) kB", path.read_text(), re.MULTILINE)
    return int(match[1]) * 1024 / 1e6 if match else 0.0


def measure(workers: int, images: list[bytes], options: argparse.Namespace) -> Figures:
    """The figures of one round of one number of workers."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        launch = this_project(options.model, port, Path(folder), multipart=False)
        launch.environment.update(CONVNEXT_WORKERS=str(workers), CONVNEXT_LOG_LEVEL="info")
        with running(launch, port, images[0], Path(folder)) as url:
            wait_for_workers(Path(folder), workers, time.monotonic() + START_S)
            figures: Figures = {"idle_mb": memory_mb(port)}
            requests = make_requests(url, images, multipart=False)
            for connections in options.connections:
                load = closed_loop(url, requests, connections, options.seconds, WARMUP_S)
                figures[str(connections)] = report = uvloop.run(load).summary()
                if set(report["outcomes"]) != {"200"}:
                    raise RuntimeError(f"{workers} workers with {connections} connections: {report['outcomes']}")
            figures["loaded_mb"] = memory_mb(port)
    print(
        f"{workers} workers: {[figures[str(count)]['ok_per_s'] for count in options.connections]} requests/s",
        flush=True,
    )
    return figures


def main() -> None:
    """Measures every number of workers, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    options = parser.parse_args()
    os.environ["CONVNEXT_MAX_QUEUE_WAIT_S"] = str(REQUEST_TIMEOUT_S)  # no rejections, on however slow a machine
    images = make_photos(64, 500, 375, 110_000)
    contenders = {str(count): partial(measure, count, images, options) for count in options.workers}
    rounds = alternate(contenders, options.rounds)
    first = str(options.workers[0])
    for connections in options.connections:
        rates = {name: [turn[str(connections)]["ok_per_s"] for turn in turns] for name, turns in rounds.items()}
        for name in rounds:
            times = spread(ratios(rates, name, first))
            print(
                f"{connections} connections, {name} workers: {spread(rates[name], 0)} requests/s, {times} times {first}"
            )
    for name, turns in rounds.items():
        print(f"{name} workers: MB when idle {turns[-1]['idle_mb']}, after the load {turns[-1]['loaded_mb']}")
    print(f"written to {keep('workers', {'settings': vars(options), 'rounds': rounds})}")


if __name__ == "__main__":
    main()
