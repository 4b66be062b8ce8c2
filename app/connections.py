"""Connections: uvicorn's HTTP/1.1 protocol with the limits that it lacks, and a monitor that enforces deadlines.

This is the only file that relies on internals of uvicorn (its h11 protocol), whose minor version is therefore capped.
"""

import asyncio
import json
import time
from collections.abc import Collection
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.problems import MEDIA_TYPE

MAX_HEADER_BYTES = 65536
_CHECK_INTERVAL_S = 1.0


class Protocol(H11Protocol):
    """Rejects connections above ``limit_concurrency``, and reports protocol errors as problem+json."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accepts the connection, or sends a 503 and closes it."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self.connections.discard(self)
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "There are too many open connections.")

    def send_400_response(self, msg: str) -> None:
        """Sends a problem where uvicorn sends plain text: 431 for headers that are too large, else 400."""
        if self.conn.trailing_data[0] and len(self.conn.trailing_data[0]) > MAX_HEADER_BYTES:
            detail = f"The headers exceed the limit of {MAX_HEADER_BYTES} bytes."
            self.reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid-request", detail)
        else:
            self.reject(HTTPStatus.BAD_REQUEST, "invalid-request", msg)

    def reject(self, status: HTTPStatus, problem_type: str, detail: str) -> None:
        """Sends a problem unless a response has begun, and closes the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            problem = {"type": problem_type, "title": status.phrase, "status": status.value, "detail": detail}
            body = json.dumps(problem).encode()
            headers = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{headers}".encode() + body)
        self.transport.close()


class ConnectionMonitor:
    """Closes every connection that waits for its client for longer than ``timeout_s`` seconds.

    A client is slow if it does not complete the headers of a request, does not complete the body of a request that has
    already been answered, or does not read a response. Requests that are being processed have a deadline of their own.
    """

    def __init__(self, connections: Collection[Protocol], timeout_s: float) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._waiting: dict[Protocol, tuple[object, float]] = {}

    async def run(self) -> None:
        """Checks the connections until it is cancelled."""
        while True:
            await asyncio.sleep(min(_CHECK_INTERVAL_S, self._timeout_s / 2))
            self.check(time.monotonic())

    def check(self, now: float) -> None:
        """Closes the connections that have waited too long at ``now`` (s of ``time.monotonic``)."""
        waiting = {}
        for connection in list(self._connections):
            state = _waits_for(connection)
            if state is None:
                continue
            previous, since = self._waiting.get(connection, (None, now))
            waiting[connection] = state, since if previous == state else now
            if previous == state and now - since > self._timeout_s:
                self._close(connection)
        self._waiting = waiting

    def _close(self, connection: Protocol) -> None:
        transport = connection.transport
        if transport.is_closing() or transport.get_write_buffer_size():
            transport.abort()
            return
        connection.reject(
            HTTPStatus.REQUEST_TIMEOUT,
            "invalid-request",
            f"The request did not arrive completely within {self._timeout_s:g} s.",
        )


def _waits_for(connection: Protocol) -> object:
    """What ``connection`` waits for its client to do, different for each request; None if it does not."""
    transport, cycle = connection.transport, connection.cycle
    if transport.get_write_buffer_size() or transport.is_closing():
        return "read", cycle
    if cycle is None or cycle.response_complete:
        return "send", cycle
    return None
