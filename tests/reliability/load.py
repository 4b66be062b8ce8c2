"""A load generator on raw asyncio protocols, cheap enough to share two cores with the server that it loads."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

RESET = 0  # instead of a status: the connection ended without a response
NOT_CONNECTED = -1  # instead of a status: no connection could be made
TIMEOUT_S = 60.0
_MAX_IDLE_S = 4.0  # the service closes connections that are idle for 5 s


@dataclass(frozen=True, slots=True)
class Response:
    """One response; ``status`` is ``RESET`` if the connection ended first."""

    status: int
    headers: bytes = b""  # in lower case
    body: bytes = b""

    def header(self, name: bytes) -> bytes | None:
        """The value of a header, by its name in lower case."""
        _, found, after = self.headers.partition(b"\r\n" + name + b": ")
        return after.partition(b"\r\n")[0] if found else None


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection; calls ``on_response`` once for each request that was sent."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._on_response: Callable[[Response], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self.transport = None
        self._finish(Response(RESET))

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        headers = bytes(self._buffer[: end + 2]).lower()
        length = int(Response(1, headers).header(b"content-length") or 0)
        if len(self._buffer) >= end + 4 + length:
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            response = Response(int(headers[9:12]), headers, body)
            if response.header(b"connection") == b"close":
                self.close()
            self._finish(response)

    @property
    def open(self) -> bool:
        """Whether another request can be sent."""
        return self.transport is not None

    def send(self, request: bytes, on_response: Callable[[Response], None]) -> None:
        """Sends a complete request; the connection must be open and idle."""
        self._on_response = on_response
        assert self.transport is not None
        self.transport.write(request)

    async def ask(self, request: bytes) -> Response:
        """The response to a complete request."""
        if not self.open:
            return Response(RESET)
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.send(request, lambda response: None if future.done() else future.set_result(response))
        async with asyncio.timeout(TIMEOUT_S):
            return await future

    def close(self) -> None:
        """Closes the connection."""
        if self.transport is not None:
            self.transport.close()
            self.transport = None

    def _finish(self, response: Response) -> None:
        if self._on_response is not None:
            on_response, self._on_response = self._on_response, None
            on_response(response)


async def connect(port: int) -> Connection:
    """A new connection to the server on ``port``."""
    return (await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port))[1]


def post(body: bytes, content_type: str = "image/jpeg", path: str = "/predict") -> bytes:
    """A complete POST request."""
    lines = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return lines.encode("latin-1") + body


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile; NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(percent / 100 * len(ordered)))] if ordered else float("nan")


@dataclass
class Report:
    """Outcome of a load: responses by status, and seconds from the time each request was due to its response."""

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: dict[int, list[float]] = field(default_factory=dict)
    retry_after: Counter[str] = field(default_factory=Counter)
    unsent: int = 0  # due, but no connection was free
    resets: list[str] = field(default_factory=list)  # how each connection that ended without a response was used

    def note(self, response: Response, latency_s: float) -> None:
        """Counts one response."""
        self.statuses[response.status] += 1
        self.latencies.setdefault(response.status, []).append(latency_s)
        if response.status == 503:
            self.retry_after[(response.header(b"retry-after") or b"missing").decode()] += 1

    @property
    def rate(self) -> float:
        """Successful responses per second."""
        return self.statuses[200] / self.seconds

    def percentile_ms(self, status: int, percent: float) -> float:
        """A latency percentile in milliseconds."""
        return 1000 * percentile(self.latencies.get(status, []), percent)


async def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Report:
    """Every connection sends its next request as soon as it has the last response."""
    report = Report()
    started_at = time.monotonic()

    async def work(offset: int) -> None:
        connection = await connect(port)
        number = offset
        while (sent_at := time.monotonic()) < started_at + seconds:
            if not connection.open:
                connection = await connect(port)
            report.note(await connection.ask(requests[number % len(requests)]), time.monotonic() - sent_at)
            number += connections
        connection.close()

    await asyncio.gather(*(work(offset) for offset in range(connections)))
    report.seconds = time.monotonic() - started_at
    return report


class _OpenLoop:
    """Sends requests at given times over a pool of connections that grows up to ``max_connections``."""

    def __init__(self, port: int, requests: Sequence[bytes], max_connections: int) -> None:
        self.report = Report()
        self._port = port
        self._requests = requests
        self._max_connections = max_connections
        self._idle: list[tuple[Connection, float]] = []  # and since when
        self._busy = 0
        self._sent = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, seconds: float, seed: int) -> Report:
        generator = random.Random(seed)  # noqa: S311 - arrival times
        started_at = due = time.monotonic()
        while (due := due + generator.expovariate(rate)) < started_at + seconds:
            if (wait_s := due - time.monotonic()) > 0:
                await asyncio.sleep(wait_s)
            self._start(due)
        self.report.seconds = time.monotonic() - started_at
        async with asyncio.timeout(TIMEOUT_S):
            while self._busy or self._tasks:  # noqa: ASYNC110 - once, at the end
                await asyncio.sleep(0.01)
        for connection, _ in self._idle:
            connection.close()
        return self.report

    def _start(self, due: float) -> None:
        while self._idle:
            connection, since = self._idle.pop()
            if connection.open and (idle_s := time.monotonic() - since) < _MAX_IDLE_S:
                self._send(connection, due, idle_s)
                return
            connection.close()
        if self._busy + len(self._tasks) >= self._max_connections:
            self.report.unsent += 1
            return
        task = asyncio.get_running_loop().create_task(self._send_on_new(due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_on_new(self, due: float) -> None:
        try:
            self._send(await connect(self._port), due, None)
        except OSError:
            self.report.note(Response(NOT_CONNECTED), time.monotonic() - due)

    def _send(self, connection: Connection, due: float, idle_s: float | None) -> None:
        self._busy += 1
        self._sent += 1
        sent_at = time.monotonic()

        def on_response(response: Response) -> None:
            self._busy -= 1
            if response.status == RESET:
                use = "new" if idle_s is None else f"idle for {idle_s:.3f} s"
                self.report.resets.append(f"{use}, ended {time.monotonic() - sent_at:.3f} s after the request")
            self.report.note(response, time.monotonic() - due)
            if connection.open:
                self._idle.append((connection, time.monotonic()))

        connection.send(self._requests[self._sent % len(self._requests)], on_response)


async def open_loop(
    port: int, requests: Sequence[bytes], rate: float, seconds: float, *, max_connections: int = 800, seed: int = 0
) -> Report:
    """Requests are due at random times (Poisson) at ``rate`` per second, however long the server takes."""
    return await _OpenLoop(port, requests, max_connections).run(rate, seconds, seed)
