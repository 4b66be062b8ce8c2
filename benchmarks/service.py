"""The service over HTTP beside the plain app, in one run: requests a second and latency at several connections.

    python -m benchmarks.service --model CHECKPOINT

Without ``--model`` it serves a network of near-zero cost (widths 8 to 64, one block a stage), so that what is measured
is serving itself. Both servers run from the start and are loaded in turn, by a generator on the same cores.
"""

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import torch
import uvloop

from benchmarks.load import Report, closed_loop, lone_requests, make_requests, open_loop
from benchmarks.photos import make_photos
from benchmarks.rounds import alternate, keep, ratios, spread
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.preprocess import Transform

START_S = 60
OURS = "this project"
SHARES = (0.25, 0.5, 0.7, 0.8, 0.9)  # of saturation
OPEN_CONNECTIONS = 128


def save_small_network(folder: str) -> str:
    """A checkpoint whose network costs next to nothing."""
    torch.manual_seed(0)
    config = ConvNeXtConfig((1, 1, 1, 1), (8, 16, 32, 64), 1000)
    path = f"{folder}/small.safetensors"
    labels = tuple(f"class_{index}" for index in range(1000))
    save_checkpoint(path, ConvNeXt(config).state_dict(), config, Transform(236), labels, name="small", licence="none")
    return path


@contextlib.contextmanager
def running(command: list[str], port: int, path: str, **environment: str) -> Iterator[int]:
    """A server as a process of its own, from when it answers ``path`` until the end of the block; gives its pid."""
    with subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment) as process:
        try:
            _wait(f"http://127.0.0.1:{port}{path}")
            yield process.pid
        finally:
            process.terminate()


def _wait(url: str) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url)
            return
        time.sleep(0.1)
    raise TimeoutError(f"{url} did not answer within {START_S} s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _measure(urls: dict[str, str], options: argparse.Namespace) -> dict[str, object]:
    width, height = map(int, options.size.split("x"))
    photos = make_photos(options.photos, width, height, options.bytes)
    requests = make_requests(urls[OURS], photos, multipart=True)
    beyond = uvloop.run(lone_requests(urls[OURS], requests, 200))[20:]  # without the first ones
    percentiles = {f"p{p}": round(float(np.percentile(beyond, p)), 2) for p in (50, 90, 99)}
    print(f"a lone request, ms beyond its decoding and inference: {percentiles}")
    kept: dict[str, object] = {"lone_request_ms_beyond": percentiles}
    for connections in options.connections:
        reports: dict[str, list[Report]] = {name: [] for name in urls}

        def load(name: str, connections: int = connections, reports: dict[str, list[Report]] = reports) -> float:
            requests = make_requests(urls[name], photos, multipart=True)
            report = uvloop.run(closed_loop(urls[name], requests, connections, options.seconds))
            if set(report.statuses) != {200}:
                raise RuntimeError(f"{name} answered {dict(report.statuses)}")
            reports[name].append(report)
            return len(report.latencies) / report.seconds

        figures = alternate({name: (lambda name=name: load(name)) for name in urls}, options.rounds)
        print(f"\n{connections} connections: requests/s, as a ratio to the plain app, and latency in ms")
        for name in urls:
            p50, p99 = ([one.summary()[key] for one in reports[name]] for key in ("p50_ms", "p99_ms"))
            ratio = spread(ratios(figures, name, "plain app"))
            print(f"  {name:14} {spread(figures[name], 0):22} {ratio:22} p50 {spread(p50, 0)}, p99 {spread(p99, 0)}")
        kept[str(connections)] = {name: [one.summary() for one in reports[name]] for name in urls}
    kept["open loop"] = _sweep(urls[OURS], requests, statistics.median(figures[OURS]), options)
    return kept


def _sweep(url: str, requests: list[bytes], saturation: float, options: argparse.Namespace) -> list[dict[str, object]]:
    """Latency where requests arrive at random, at shares of the rate that saturates the service."""
    summaries = []
    print("\nrequests at random: offered and answered a second, latency in ms")
    for share in SHARES:
        report = uvloop.run(open_loop(url, requests, OPEN_CONNECTIONS, share * saturation, 2 * options.seconds))
        summaries.append(one := report.summary())
        print(
            f"  {one['offered_per_s']:.0f} {one['ok_per_s']} p50 {one['p50_ms']} p99 {one['p99_ms']} {one['statuses']}"
        )
    return summaries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="checkpoint to serve")
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--photos", type=int, default=64, help="how many different ones")
    parser.add_argument("--size", default="500x375")
    parser.add_argument("--bytes", type=int, default=110_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(options.model).resolve()) if options.model else save_small_network(folder)
        ours, plain = _free_port(), _free_port()
        plain_command = ["uvicorn", "benchmarks.plain_app:app", "--workers", "2", "--no-access-log"]
        with (
            running(
                ["app", "serve", "--port", str(ours)],
                ours,
                "/health",
                CONVNEXT_MODEL=model,
                CONVNEXT_LOG_LEVEL="warning",
            ),
            running(
                [*plain_command, "--port", str(plain), "--log-level", "warning"], plain, "/docs", PLAIN_MODEL=model
            ),
        ):
            urls = {
                OURS: f"http://127.0.0.1:{ours}/predict",
                "plain app": f"http://127.0.0.1:{plain}/predict",
            }
            kept = _measure(urls, options)
    print(f"\nkept in {keep('service_' + (Path(options.model).stem if options.model else 'small'), kept)}")


if __name__ == "__main__":
    main()
