"""Requests per second and latency of this project and of other servers of the same network, in one run.

    python -m benchmarks.service --networks minimal convnext_tiny
    python -m benchmarks.service --isa avx2
    python -m benchmarks.service --servers "this project" --overload 2 5 10

In every round each server is started, checked, measured and stopped, in alternating order, so that only one is running
at a time. The load generator runs on the same cores; its CPU time per request is part of the results.
The minimal network costs about a millisecond, so that it shows the cost of serving itself.
"""

import argparse
import json
import os
import re
import signal
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop

from benchmarks.photos import make_photos
from benchmarks.rounds import ISA_LIMITS, alternate, keep, ratios, spread
from benchmarks.service.load import closed_loop, make_requests, open_loop, percentiles_ms, send_in_sequence
from benchmarks.service.peers.classifier import NETWORKS, Classifier, build_network
from benchmarks.service.servers import REQUEST_TIMEOUT_S, SERVERS, free_port, running, versions

BASELINE = "plain app"
WARMUP_S = 2.0
WARMUP_REQUESTS = 20
CHECKED = 16  # images whose classes are compared with those of the baseline
MIN_AGREEMENT = 0.9  # of the most probable classes: preprocessing differs by up to two levels of 256

Figures = dict[str, Any]  # Any: written to JSON as it is


def measure(name: str, weights: Path, images: list[bytes], options: argparse.Namespace) -> Figures:
    """The figures of one round of one server."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        launch = SERVERS[name](weights, port, Path(folder))
        with running(launch, port, images[0], Path(folder)) as url:
            requests = make_requests(url, images, launch.multipart)
            figures: Figures = {"agreement": check_classes(name, url, requests[:CHECKED], weights, images[:CHECKED])}
            turns = range(options.sequential + WARMUP_REQUESTS)
            figures["sequential"] = measure_sequential(url, [requests[turn % len(requests)] for turn in turns])
            for connections in options.connections:
                load = closed_loop(url, requests, connections, options.seconds, WARMUP_S)
                report = uvloop.run(load).summary()
                figures[str(connections)] = report
                if set(report["outcomes"]) != {"200"} and not options.overload:
                    raise RuntimeError(
                        f"{name} with {connections} connections within {options.seconds} s: {report['outcomes']}"
                    )
            capacity = max(figures[str(connections)]["ok_per_s"] for connections in options.connections)
            for factor in options.overload:
                rate = factor * capacity
                load = open_loop(
                    url, requests, options.sockets, rate, options.seconds, options.timeout, not options.fresh_sockets
                )
                figures[f"overload x{factor:g}"] = uvloop.run(load).summary()
    return figures


def check_classes(name: str, url: str, requests: list[bytes], weights: Path, images: list[bytes]) -> float:
    """The share of images whose most probable class is the baseline's; raises RuntimeError if it is too low."""
    responses = uvloop.run(send_in_sequence(url, requests))
    found = [json.loads(response.body)["predictions"][0]["class_id"] for response, _ in responses]
    expected = [reply["predictions"][0]["class_id"] for reply in Classifier(weights).classify(images)]
    agreement = float(np.mean(np.equal(found, expected)))
    if agreement < MIN_AGREEMENT:
        raise RuntimeError(f"{name} returns the classes {found} where the baseline returns {expected}")
    return agreement


def measure_sequential(url: str, requests: list[bytes]) -> Figures:
    """Latency of single requests, and what of it is beyond decoding and inference where the server states these."""
    responses = uvloop.run(send_in_sequence(url, requests))[WARMUP_REQUESTS:]
    figures: Figures = {"total": percentiles_ms([latency_s for _, latency_s in responses])}
    timings = [re.findall(r"(\w+);dur=([\d.]+)", response.header("server-timing") or "") for response, _ in responses]
    if all(timings):
        beyond_s = [
            latency_s - sum(float(ms) for part, ms in timing if part in ("decode", "inference")) / 1000
            for (_, latency_s), timing in zip(responses, timings, strict=True)
        ]
        figures["beyond decode and inference"] = percentiles_ms(beyond_s)
    return figures


def print_table(rounds: dict[str, list[Figures]], connections: int) -> None:
    """Each server's rate, its ratio to the baseline and its latency: median and range of the rounds."""
    reports = {name: [figures[str(connections)] for figures in server] for name, server in rounds.items()}
    rates = {name: [report["ok_per_s"] for report in server] for name, server in reports.items()}
    print(
        f"\n{connections} connections: requests/s, ratio to the {BASELINE}, latency in ms, generator CPU in µs/request"
    )
    for name, server in reports.items():
        ratio = spread(ratios(rates, name, BASELINE)) if BASELINE in rates else ""
        p50, p99 = (spread([report["outcomes"]["200"][key] for report in server], 0) for key in ("p50_ms", "p99_ms"))
        cpu = statistics.median(report["generator_cpu_us_per_request"] for report in server)
        print(f"  {name:20} {spread(rates[name], 0):18} {ratio:18} p50 {p50:14} p99 {p99:14} {cpu:.0f}")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["minimal"])
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=[name for name in SERVERS if name != "ray"])
    parser.add_argument("--connections", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--sequential", type=int, default=200, help="number of single requests, one after the other")
    parser.add_argument("--overload", type=float, nargs="*", default=[], help="multiples of the measured capacity")
    parser.add_argument("--sockets", type=int, default=512, help="most connections in overload")
    parser.add_argument("--fresh-sockets", action="store_true", help="a connection per request in overload")
    parser.add_argument("--timeout", type=float, default=10, help="of the client in overload, in seconds")
    parser.add_argument("--isa", choices=ISA_LIMITS, default="native", help="instruction set of all servers")
    parser.add_argument("--size", default="500x375", help="of the images, in pixels")
    parser.add_argument("--bytes", type=int, default=110_000, help="size of the JPEG files")
    return parser.parse_args()


def main() -> None:
    """Measures every server with each network, prints tables and writes the results."""
    options = parse_options()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(128 + signal.SIGTERM))  # stops the servers
    os.environ.update(ISA_LIMITS[options.isa])  # inherited by the servers and written to the results
    if not options.overload:  # no rejections in the closed loop, on however slow a machine
        os.environ["CONVNEXT_MAX_QUEUE_WAIT_S"] = str(REQUEST_TIMEOUT_S)
    width, height = map(int, options.size.split("x"))
    images = make_photos(64, width, height, options.bytes)
    for network in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / f"{network}.pth"
            torch.save(build_network(network).state_dict(), weights)
            os.environ["WEIGHTS"] = str(weights)
            contenders = {name: partial(measure, name, weights, images, options) for name in options.servers}
            rounds = alternate(contenders, options.rounds)
        print(f"\n{network}, {options.isa} instructions")
        for connections in options.connections:
            print_table(rounds, connections)
        for name, server in rounds.items():
            for key in server[-1].keys() - {str(connections) for connections in options.connections}:
                print(f"  {name}, {key}, last round: {json.dumps(server[-1][key])}")
        suffix = ("" if options.isa == "native" else f"_{options.isa}") + ("_overload" if options.overload else "")
        figures = {"settings": vars(options), "versions": versions(), "rounds": rounds}
        print(f"\nwritten to {keep(f'service_{network}{suffix}', figures)}")


if __name__ == "__main__":
    main()
