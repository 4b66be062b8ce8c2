"""What uvicorn's connections lack: deadlines for slow clients, a limit with a reserve for probes, problems as JSON."""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.problems import MEDIA_TYPE

MAX_HEADER_BYTES = 32768  # parsing so many takes 20 ms at most

_RESERVE = 16  # connections
_SMALL_CHUNKS = 1000  # of one body; parsing so many takes 13 ms
_MIN_CHUNK_BYTES = 128  # on average, if there are more
_CHECK_INTERVAL_S = 1.0

_ABSOLUTE_TARGET = re.compile(rb"https?://[^/?#]+(/.*)", re.IGNORECASE)

logger = logging.getLogger(__name__)


class ConnectionLimit:
    """The limit of one server's connections. The newest few above it are kept, for the probes of orchestrators.

    The application rejects other requests on those (``scope["state"]["over_limit"]``). The oldest of them is closed for
    each further connection, and ``on_closed`` called.
    """

    def __init__(self, max_connections: int, on_closed: Callable[[], None] = lambda: None) -> None:
        self.closed = 0
        self._max_connections = max_connections
        self._on_closed = on_closed
        self._reserve: dict[HttpProtocol, None] = {}  # in the order of arrival

    def add(self, connection: "HttpProtocol", count: int) -> bool:
        """Called for each connection, now one of ``count``; returns whether it is above the limit."""
        if count - len(self._reserve) <= self._max_connections:
            return False
        self._reserve[connection] = None
        if len(self._reserve) > _RESERVE:
            self._close(next(iter(self._reserve)))
        return True

    def discard(self, connection: "HttpProtocol") -> None:
        """Called for each connection that has ended."""
        self._reserve.pop(connection, None)

    def _close(self, connection: "HttpProtocol") -> None:
        self.discard(connection)
        self.closed += 1
        self._on_closed()
        connection.reject(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "There are too many open connections.")


class _Parser(h11.Connection):
    """h11's parser, which also rejects what RFC 9112 leaves to the server, and bodies in thousands of tiny chunks.

    Parsing a chunk takes as long as copying 100 kB.
    """

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises ``h11.RemoteProtocolError``."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_end
            self._bytes += len(event.data)
            if self._chunks > _SMALL_CHUNKS and self._bytes < self._chunks * _MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError(f"the chunks of the body have less than {_MIN_CHUNK_BYTES} bytes")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            return _checked(event)
        return event


def _checked(request: h11.Request) -> h11.Request:
    """The request, its target reduced to path and query. Raises ``h11.RemoteProtocolError``.

    A target may be a whole URL (RFC 9112, 3.2.2). Two ways to frame a body are an attack on proxies (6.3).
    """
    names = [name for name, _ in request.headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise h11.RemoteProtocolError("there are both Content-Length and Transfer-Encoding")
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("the version of HTTP is not supported", error_status_hint=505)
    if request.target.startswith(b"/") and request.method != b"CONNECT":
        return request
    found = _ABSOLUTE_TARGET.fullmatch(request.target)
    if not found or request.method == b"CONNECT":
        raise h11.RemoteProtocolError("the target has no path")
    return h11.Request(
        method=request.method,
        target=found[1],
        headers=request.headers.raw_items(),
        http_version=request.http_version,
    )


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, whose parser is h11, within limits; errors in the protocol are problem+json.

    While a response is awaited, what follows its request is kept but neither parsed nor read further.
    """

    def __init__(self, *arguments: Any, limit: ConnectionLimit, **options: Any) -> None:
        # Any: the arguments of uvicorn's protocol
        super().__init__(*arguments, **options)
        self.conn = _Parser()
        self._limit = limit
        self._ahead = b""  # received while a response is awaited

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accepts the connection."""
        super().connection_made(transport)
        if self._limit.add(self, len(self.connections)):
            self.app_state = {**self.app_state, "over_limit": True}

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is being processed."""
        self._limit.discard(self)
        if self.timeout_keep_alive_task is not None:  # uvicorn's would hold a connection that was reset until it ends
            self.timeout_keep_alive_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parses the next bytes, or keeps them until the response has been sent.

        h11 limits headers only while they are incomplete, so it gets no more than ``MAX_HEADER_BYTES`` at a time.
        """
        for start in range(0, len(data), MAX_HEADER_BYTES):
            if self.transport.is_closing():
                return
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._ahead += data[start:]
                self.transport.pause_reading()
                return
            self._parse(data[start : start + MAX_HEADER_BYTES])

    def _parse(self, data: bytes) -> None:
        try:
            super().data_received(data)
        except MemoryError:
            detail = "There is not enough memory for this request."
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail)

    def on_response_complete(self) -> None:
        """Goes on with what was received meanwhile."""
        super().on_response_complete()
        if self._ahead and self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            data, self._ahead = self._ahead, b""
            self.transport.resume_reading()
            self.data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Reports the error that h11 has raised."""
        error = sys.exception()
        assert isinstance(error, h11.RemoteProtocolError)  # noqa: S101 - uvicorn calls this where it has caught one
        status = HTTPStatus(error.error_status_hint)
        self.reject(status, "invalid-request", f"The request is not valid HTTP/1.1: {error}.")

    def reject(self, status: HTTPStatus, problem_type: str, detail: str) -> None:
        """Sends a problem, unless a response has begun, and closes the connection."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # its own response would be a second one
                self.cycle.message_event.set()
            for event in _problem_events(status, problem_type, detail):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    @property
    def waits_for(self) -> object:
        """What the connection waits for its client to do, different for each request.

        None while a request is being processed, and between two requests, for which uvicorn has a timeout.
        """
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            return "read", self.cycle
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        between_requests = self.timeout_keep_alive_task is not None and self.conn.their_state is h11.IDLE
        return None if between_requests else ("send", self.cycle)


def _problem_events(
    status: HTTPStatus, problem_type: str, detail: str
) -> tuple[h11.Response, h11.Data, h11.EndOfMessage]:
    problem = {"type": problem_type, "title": status.phrase, "status": status.value, "detail": detail}
    body = json.dumps(problem).encode()
    headers = [("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.append(("Retry-After", "5"))
    response = h11.Response(status_code=status.value, headers=headers, reason=status.phrase.encode())
    return response, h11.Data(data=body), h11.EndOfMessage()


class ConnectionMonitor:
    """Closes every connection that waits for its client for longer than ``timeout_s`` seconds.

    A client is slow if it does not complete the headers of a request, does not complete the body of a request that
    already has its response, or does not read a response. Requests that are being processed have a deadline of their
    own.
    """

    def __init__(self, connections: Collection[HttpProtocol], limit: ConnectionLimit, timeout_s: float) -> None:
        self._connections = connections
        self._limit = limit
        self._timeout_s = timeout_s
        self._waiting: dict[HttpProtocol, tuple[object, float]] = {}
        self._logged = 0

    async def run(self) -> None:
        """Checks the connections until it is cancelled."""
        while True:
            await asyncio.sleep(min(_CHECK_INTERVAL_S, self._timeout_s / 2))
            self.check(time.monotonic())
            if self._limit.closed > self._logged:
                logger.warning("closed %d connections: too many are open", self._limit.closed - self._logged)
                self._logged = self._limit.closed

    def check(self, now: float) -> None:
        """Closes the connections that have waited too long at ``now`` (s of ``time.monotonic``)."""
        waiting = {}
        for connection in list(self._connections):
            state = connection.waits_for
            if state is None:
                continue
            previous, since = self._waiting.get(connection, (None, now))
            waiting[connection] = state, since if previous == state else now
            if previous == state and now - since > self._timeout_s:
                self._close(connection)
        self._waiting = waiting

    def _close(self, connection: HttpProtocol) -> None:
        transport = connection.transport
        if transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
            return
        connection.reject(
            HTTPStatus.REQUEST_TIMEOUT,
            "invalid-request",
            f"The request did not arrive completely within {self._timeout_s:g} s.",
        )
