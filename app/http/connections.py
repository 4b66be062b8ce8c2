"""Additions to uvicorn's connections: deadlines for slow clients, a limit with a reserve for probes, problem+json."""

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
MAX_TARGET_BYTES = 8192  # of the path and the query of a request

_RESERVE = 16  # connections
_SMALL_CHUNKS = 1000  # of one body; parsing so many takes 13 ms
_MIN_CHUNK_BYTES = 128  # on average, if there are more
_CHECK_INTERVAL_S = 1.0

_ABSOLUTE_TARGET = re.compile(rb"https?://[^/?#]+(/[^?]*)?(\?.*)?", re.IGNORECASE)
_HOST = re.compile(rb"[^\s/?#@\\<>\"]*")

logger = logging.getLogger(__name__)


class ConnectionLimit:
    """The limit of one server's connections. The newest few above it are kept, for the probes of orchestrators.

    The application rejects other requests on those (``scope["state"]["over_limit"]``). For each further connection, the
    oldest of them that waits for its client is closed, and ``on_closed`` called.
    """

    def __init__(self, max_connections: int, on_closed: Callable[[], None] = lambda: None) -> None:
        self.closed = 0
        self.invalid = 0  # requests that are not valid HTTP
        self._max_connections = max_connections
        self._on_closed = on_closed
        self._reserve: dict[HttpProtocol, None] = {}  # in the order of arrival

    def add(self, connection: "HttpProtocol", count: int) -> bool:
        """Called for each connection, now one of ``count``; returns whether it is above the limit."""
        if count - len(self._reserve) <= self._max_connections:
            return False
        self._reserve[connection] = None
        if len(self._reserve) > _RESERVE:
            oldest = next(iter(self._reserve))
            self._close(next((other for other in self._reserve if other.waits_for), oldest))
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
        self.body_left = 0  # bytes that Content-Length announces and that have not been received
        self._chunks = self._bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises ``h11.RemoteProtocolError``."""
        event = super().next_event()
        if isinstance(event, h11.Data):
            self._chunks += event.chunk_end
            self._bytes += len(event.data)
            self.body_left = max(0, self.body_left - len(event.data))
            if self._chunks > _SMALL_CHUNKS and self._bytes < self._chunks * _MIN_CHUNK_BYTES:
                raise h11.RemoteProtocolError(f"the chunks of the body have less than {_MIN_CHUNK_BYTES} bytes")
        elif isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
            self.body_left = int(dict(event.headers).get(b"content-length", 0))
            return _checked(event)
        return event


def _checked(request: h11.Request) -> h11.Request:
    """The request, its target reduced to path and query. Raises ``h11.RemoteProtocolError``.

    A target may be a whole URL (RFC 9112, 3.2.2); one without a path has the path ``/`` (RFC 9110, 4.2.3). A host with
    characters that no host has is invalid (RFC 9112, 3.2). Two ways to frame a body are an attack on proxies (6.3).
    """
    headers = dict(request.headers)
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise h11.RemoteProtocolError("there are both Content-Length and Transfer-Encoding")
    if not _HOST.fullmatch(headers.get(b"host", b"")):
        raise h11.RemoteProtocolError("the Host is invalid")
    if len(request.target) > MAX_TARGET_BYTES:
        raise h11.RemoteProtocolError(f"the URL is longer than {MAX_TARGET_BYTES} bytes", error_status_hint=414)
    if request.http_version not in (b"1.0", b"1.1"):
        raise h11.RemoteProtocolError("the version of HTTP is not supported", error_status_hint=505)
    if request.target.startswith(b"/") and request.method != b"CONNECT":
        return request
    found = _ABSOLUTE_TARGET.fullmatch(request.target)
    if not found or request.method == b"CONNECT":
        raise h11.RemoteProtocolError("the target is neither a path nor a URL of HTTP")
    return h11.Request(
        method=request.method,
        target=(found[1] or b"/") + (found[2] or b""),
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
        self.conn: _Parser = _Parser()
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

        h11 limits headers only while they are incomplete, so it gets at most ``MAX_HEADER_BYTES`` of them at a time.
        """
        while data and not self.transport.is_closing():
            if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
                self._ahead += data
                self.transport.pause_reading()
                return
            length = max(MAX_HEADER_BYTES, self.conn.body_left)
            part, data = data[:length], data[length:]
            self._parse(part)

    def _parse(self, data: bytes) -> None:
        if self._between_requests:
            data = data.removeprefix(b"\r\n")  # RFC 9112, 2.2: some clients end a body with it
        try:
            super().data_received(data)
        except MemoryError:
            detail = "There is not enough memory for this request."
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail)
        if self._between_requests and self.cycle is not None and self.timeout_keep_alive_task is None:
            # The response came before the end of the body, whose rest has ended uvicorn's timeout.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

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
        self._limit.invalid += 1
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
    def _between_requests(self) -> bool:
        """Whether nothing of the next request has been received."""
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

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
        self._logged = self._logged_invalid = 0

    async def run(self) -> None:
        """Checks the connections until it is cancelled."""
        while True:
            await asyncio.sleep(min(_CHECK_INTERVAL_S, self._timeout_s / 2))
            self.check(time.monotonic())
            self._log()

    def _log(self) -> None:
        """One line for all connections and requests of the last interval."""
        if self._limit.closed > self._logged:
            logger.warning("closed %d connections: too many are open", self._limit.closed - self._logged)
            self._logged = self._limit.closed
        if self._limit.invalid > self._logged_invalid:
            logger.warning("rejected %d requests: not valid HTTP", self._limit.invalid - self._logged_invalid)
            self._logged_invalid = self._limit.invalid

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
