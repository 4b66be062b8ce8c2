"""HTTP load: closed loop (N connections, always busy) or open loop (arrivals at a fixed rate).

In the open loop a latency counts from the time at which a request was due, so that a stalled server cannot hide the
requests it delayed (coordinated omission).
"""

import asyncio
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np

PERCENTILES = (50, 90, 99)
_BOUNDARY = b"image-boundary-7d1"
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """A response as it was received."""

    status: int
    headers: bytes
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, or None."""
        match = re.search(rf"\r\n{name}: *([^\r]*)", self.headers.decode("latin-1"), re.IGNORECASE)
        return match and match[1]


@dataclass
class Report:
    """What one load found.

    ``latencies_s`` are by outcome: a status, "connection error" or "timeout". ``completed`` counts the responses with
    status 200 within the measured ``seconds``.
    """

    seconds: float
    offered_per_s: float | None = None
    completed: int = 0
    latencies_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    retry_after: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    cpu_s: float = 0.0

    def count(self, outcome: Response | str, latency_s: float) -> None:
        """Adds the outcome of one request."""
        if isinstance(outcome, Response) and (retry_after := outcome.header("retry-after")):
            self.retry_after[retry_after] += 1
        self.latencies_s[outcome if isinstance(outcome, str) else str(outcome.status)].append(latency_s)

    @classmethod
    def joined(cls, parts: Sequence["Report"]) -> "Report":
        """What several generators found at the same time."""
        whole = cls(parts[0].seconds)
        for part in parts:
            whole.completed += part.completed
            whole.sent += part.sent
            whole.cpu_s += part.cpu_s
            whole.retry_after += part.retry_after
            for outcome, latencies_s in part.latencies_s.items():
                whole.latencies_s[outcome] += latencies_s
        return whole

    def summary(self) -> dict[str, Any]:  # Any: written to JSON as it is
        """Rates per second, latency percentiles in ms by outcome, and the load generator's own CPU time."""
        outcomes = {
            outcome: {"count": len(latencies_s)} | percentiles_ms(latencies_s)
            for outcome, latencies_s in self.latencies_s.items()
        }
        return {
            "offered_per_s": self.offered_per_s,
            "ok_per_s": round(self.completed / self.seconds, 1),
            "outcomes": outcomes,
            "retry_after": dict(self.retry_after),
            "generator_cpu_us_per_request": round(1e6 * self.cpu_s / max(1, self.sent)),
        }


def percentiles_ms(latencies_s: list[float]) -> dict[str, float]:
    """Percentiles in ms of latencies in s."""
    return {f"p{p}_ms": round(1000 * float(np.percentile(latencies_s, p)), 2) for p in PERCENTILES}


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection that sends prepared requests, one at a time, and connects again when it was closed."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._address = (target.hostname or "127.0.0.1", target.port or 80)
        self._buffer = bytearray()
        self._response: asyncio.Future[Response] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # of a TCP connection

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._response is not None and not self._response.done():
            self._response.set_exception(ConnectionError("closed before the response"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        headers, separator, body = self._buffer.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(headers)
        if separator and length and len(body) >= int(length[1]) and self._response and not self._response.done():
            self._response.set_result(Response(int(headers.split(b" ", 2)[1]), bytes(headers), bytes(body)))

    async def send(self, request: bytes) -> Response:
        """The response to ``request``; raises OSError if the connection fails."""
        loop = asyncio.get_running_loop()
        transport = self._transport
        if transport is None or transport.is_closing():
            transport, _ = await loop.create_connection(lambda: self, *self._address)
        self._buffer.clear()
        self._response = loop.create_future()
        transport.write(request)
        return await self._response

    def close(self) -> None:
        """Closes it until the next request."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None


def make_requests(url: str, images: list[bytes], multipart: bool) -> list[bytes]:
    """Whole HTTP requests, headers and body, ready to be sent."""
    target = urlsplit(url)
    requests = []
    for image in images:
        content_type = b"image/jpeg"
        if multipart:
            content_type = b"multipart/form-data; boundary=" + _BOUNDARY
            part = b'Content-Disposition: form-data; name="file"; filename="image.jpg"\r\nContent-Type: image/jpeg\r\n'
            image = b"--%b\r\n%b\r\n%b\r\n--%b--\r\n" % (_BOUNDARY, part, image, _BOUNDARY)
        headers = f"POST {target.path} HTTP/1.1\r\nHost: {target.netloc}\r\nContent-Length: {len(image)}\r\n".encode()
        requests.append(headers + b"Content-Type: " + content_type + b"\r\n\r\n" + image)
    return requests


async def send_in_sequence(url: str, requests: list[bytes]) -> list[tuple[Response, float]]:
    """Responses to requests sent one after the other on one connection, with the time each took in s."""
    connection, responses = Connection(url), []
    for request in requests:
        started_at = time.perf_counter()
        response = await connection.send(request)
        responses.append((response, time.perf_counter() - started_at))
    connection.close()
    return responses


async def closed_loop(url: str, requests: list[bytes], connections: int, seconds: float, warmup_s: float) -> Report:
    """Every connection sends its next request as soon as it has the response to the previous one."""
    report = Report(seconds)
    cpu_s, start = time.process_time(), time.perf_counter() + warmup_s

    async def work(turn: int) -> None:
        connection = Connection(url)
        while (sent_at := time.perf_counter()) < start + seconds:
            outcome = await _send(connection, requests[turn % len(requests)])
            report.sent, turn = report.sent + 1, turn + 1
            if start <= (now := time.perf_counter()) < start + seconds:
                report.count(outcome, now - sent_at)
        connection.close()

    await asyncio.gather(*(work(7 * index) for index in range(connections)))
    report.cpu_s, report.completed = time.process_time() - cpu_s, len(report.latencies_s.get("200", ()))
    return report


async def open_loop(
    url: str,
    requests: list[bytes],
    connections: int,
    rate_per_s: float,
    seconds: float,
    timeout_s: float,
    keep_alive: bool = True,
) -> Report:
    """Requests are due at random times (Poisson) at ``rate_per_s``, whatever the server does with the earlier ones.

    A request that is due is sent on the first free one of at most ``connections`` sockets, and waits for it if there is
    none. ``timeout_s`` after it was due it counts as a timeout, sent or not. Without ``keep_alive`` each request has
    a connection of its own. Times are kept to a millisecond, the resolution of the event loop.
    """
    report = Report(seconds, rate_per_s)
    cpu_s, start = time.process_time(), time.perf_counter()
    gaps_s = np.random.default_rng(0).exponential(1 / rate_per_s, int(rate_per_s * seconds))
    waiting = deque(enumerate(start + np.cumsum(gaps_s)))
    turns = asyncio.Lock()

    async def work() -> None:
        connection = Connection(url)
        while True:
            async with turns:
                if not waiting:
                    return connection.close()
                index, due_at = waiting.popleft()
                await asyncio.sleep(due_at - time.perf_counter())
            outcome = await _send(connection, requests[index % len(requests)], due_at + timeout_s)
            now = time.perf_counter()
            report.count(outcome, now - due_at)
            report.completed += isinstance(outcome, Response) and outcome.status == 200 and now < start + seconds
            if not keep_alive:
                connection.close()

    await asyncio.gather(*(work() for _ in range(connections)))
    report.cpu_s, report.sent = time.process_time() - cpu_s, len(gaps_s)
    return report


async def _send(connection: Connection, request: bytes, deadline: float | None = None) -> Response | str:
    """The response, or the name of what happened instead."""
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.perf_counter()):
            return await connection.send(request)
    except TimeoutError:
        connection.close()
        return "timeout"
    except OSError:
        connection.close()
        return "connection error"
