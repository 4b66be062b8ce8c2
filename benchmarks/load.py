"""HTTP load on a running server: closed loop (N connections, always busy) or open loop (a fixed rate of arrivals).

In the open loop a latency counts from the moment a request was due, not from when it was sent, so a stalled server
cannot hide the requests it delayed (coordinated omission).

    python -m benchmarks.load http://127.0.0.1:8000/predict --connections 16 --seconds 10
    python -m benchmarks.load http://127.0.0.1:8000/predict --connections 256 --rate 100 200 400 --plot latency.svg
"""

import argparse
import asyncio
import json
import re
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

from benchmarks.photos import make_photos

PERCENTILES = (50, 90, 99, 99.9)


@dataclass
class Report:
    """What one load found: answers by status (0 where the connection failed), and latencies of the 200s in s."""

    seconds: float
    offered: float | None = None
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, object]:
        """Rates a second and latency percentiles in ms."""
        latencies = 1000 * np.array(self.latencies or [np.nan])
        percentiles = {f"p{p:g}_ms": round(float(np.percentile(latencies, p)), 2) for p in PERCENTILES}
        rate = round(len(self.latencies) / self.seconds, 1)
        return {"offered_per_s": self.offered, "ok_per_s": rate, **percentiles, "statuses": dict(self.statuses)}


class Connection(asyncio.Protocol):
    """One keep-alive HTTP/1.1 connection that sends prepared requests, one at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._answered: asyncio.Future[int] | None = None
        self._transport: asyncio.Transport | None = None
        self.head = b""  # of the last answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(0)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._answered is None:
            return
        length = next(
            int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        if len(body) >= length:
            status = int(head.split(b" ", 2)[1])
            self.head = bytes(head)
            self._buffer.clear()
            self._answered.set_result(status)

    async def ask(self, request: bytes) -> int:
        """The status of the answer to ``request``; 0 where the connection broke."""
        if self._transport is None:
            return 0
        self._answered = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    @property
    def closed(self) -> bool:
        """Whether the server ended it, as it does after a while of idleness."""
        return self._transport is None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


def make_requests(url: str, photos: list[bytes], multipart: bool) -> list[bytes]:
    """Whole HTTP requests, head and body, ready to be sent."""
    target = urlsplit(url)
    path = (target.path or "/") + (f"?{target.query}" if target.query else "")
    boundary = b"photo-boundary-7d1"
    requests = []
    for photo in photos:
        kind = b"image/jpeg"
        if multipart:
            kind = b"multipart/form-data; boundary=" + boundary
            head = b'Content-Disposition: form-data; name="file"; filename="p.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
            photo = b"--" + boundary + b"\r\n" + head + photo + b"\r\n--" + boundary + b"--\r\n"
        lines = (f"POST {path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(photo)}\r\n").encode()
        requests.append(lines + b"Content-Type: " + kind + b"\r\n\r\n" + photo)
    return requests


async def _connect(url: str, count: int) -> list[Connection]:
    target, loop = urlsplit(url), asyncio.get_running_loop()
    port = target.port or 80
    return [(await loop.create_connection(Connection, target.hostname, port))[1] for _ in range(count)]


async def closed_loop(
    url: str, requests: list[bytes], connections: int, seconds: float, warmup_s: float = 2.0
) -> Report:
    """Every connection sends its next request as soon as the last is answered."""
    report = Report(seconds)
    start = time.perf_counter() + warmup_s

    async def work(connection: Connection, offset: int) -> None:
        turn = offset
        while (sent_at := time.perf_counter()) < start + seconds:
            status = await connection.ask(requests[turn % len(requests)])
            now = time.perf_counter()
            turn += 1
            if start <= now < start + seconds:
                report.statuses[status] += 1
                if status == 200:
                    report.latencies.append(now - sent_at)
            if status == 0:
                return

    pool = await _connect(url, connections)
    await asyncio.gather(*(work(connection, index * 7) for index, connection in enumerate(pool)))
    for connection in pool:
        connection.close()
    return report


async def lone_requests(url: str, requests: list[bytes], count: int) -> list[float]:
    """Milliseconds that each of ``count`` requests, one after the other, took beyond its decoding and inference."""
    [connection] = await _connect(url, 1)
    beyond = []
    for turn in range(count):
        started = time.perf_counter()
        await connection.ask(requests[turn % len(requests)])
        took_ms = 1000 * (time.perf_counter() - started)
        timing = dict(re.findall(r"(\w+);dur=([\d.]+)", connection.head.decode("latin-1")))
        beyond.append(took_ms - float(timing["decode"]) - float(timing["inference"]))
    connection.close()
    return beyond


async def open_loop(url: str, requests: list[bytes], connections: int, rate: float, seconds: float) -> Report:
    """Requests fall due at random (Poisson) at ``rate`` a second, whatever the server does with the earlier ones."""
    report = Report(seconds, offered=rate)
    due = np.cumsum(np.random.default_rng(0).exponential(1 / rate, int(rate * seconds)))
    waiting = deque(enumerate(due + time.perf_counter()))
    turns = asyncio.Semaphore(1)

    async def work(connection: Connection) -> None:
        while True:
            async with turns:
                if not waiting:
                    return
                index, due_at = waiting.popleft()
                await asyncio.sleep(due_at - time.perf_counter())
            if connection.closed:
                [connection] = await _connect(url, 1)
            status = await connection.ask(requests[index % len(requests)])
            report.statuses[status] += 1
            if status == 200:
                report.latencies.append(time.perf_counter() - due_at)

    pool = await _connect(url, connections)
    started_at = time.perf_counter()
    await asyncio.gather(*(work(connection) for connection in pool))
    report.seconds = time.perf_counter() - started_at  # longer than asked for where the server does not keep up
    for connection in pool:
        connection.close()
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, nargs="*", help="open loop, at each of these rates a second")
    parser.add_argument("--photos", type=int, default=64, help="how many different ones")
    parser.add_argument("--size", default="640x480")
    parser.add_argument("--bytes", type=int, default=110_000)
    parser.add_argument("--multipart", action="store_true", help="instead of the photo as the body itself")
    parser.add_argument("--plot", type=Path, help="write latency against offered load to this file")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    requests = make_requests(options.url, make_photos(options.photos, width, height, options.bytes), options.multipart)
    summaries = []
    for rate in options.rate or [None]:
        load = (
            closed_loop(options.url, requests, options.connections, options.seconds)
            if rate is None
            else open_loop(options.url, requests, options.connections, rate, options.seconds)
        )
        summaries.append(uvloop.run(load).summary())
        json.dump(summaries[-1], sys.stdout)
        print(flush=True)
    if options.plot:
        from benchmarks.plots import draw_latency

        draw_latency(summaries, options.plot, options.url)


if __name__ == "__main__":
    main()
