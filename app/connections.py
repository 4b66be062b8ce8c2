"""Connections: uvicorn's HTTP/1.1 protocol with the limits that it lacks, and a monitor that enforces deadlines.

This is the only file that relies on internals of uvicorn (its h11 protocol), whose minor version is therefore capped.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.early_rejection import Rejection, build_message

MAX_HEADER_BYTES = 65536
RejectEarly = Callable[[bytes], Rejection | None]
_CHECK_INTERVAL_S = 1.0


class Protocol(H11Protocol):
    """Rejects connections above ``limit_concurrency``, and reports protocol errors as problem+json.

    ``reject_early`` is called with the first bytes of each POST.
    """

    def __init__(self, *arguments: Any, reject_early: RejectEarly | None = None, **options: Any) -> None:
        # Any: the arguments of uvicorn's protocol
        super().__init__(*arguments, **options)
        self._reject_early = reject_early
        self._discard = 0.0  # how many of the next bytes belong to a rejected request
        self.rejections = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accepts the connection, or sends a 503 and closes it."""
        super().connection_made(transport)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self.connections.discard(self)
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "There are too many open connections.")

    def data_received(self, data: bytes) -> None:
        """Rejects a request on its first bytes, or passes them on to be parsed."""
        if self._discard:
            discarded = int(min(self._discard, len(data)))
            self._discard -= discarded
            data = data[discarded:]
        if not data:
            return
        if self._reject_early is not None and data.startswith(b"POST ") and self._between_requests:
            rejection = self._reject_early(data)
            if rejection is not None:
                self._send_rejection(rejection, len(data))
                return
        super().data_received(data)

    def _send_rejection(self, rejection: Rejection, received: int) -> None:
        self.rejections += 1
        self._unset_keepalive_if_required()
        self.transport.write(rejection.response)
        if rejection.request_size is None:
            self._discard = math.inf
            self.transport.write_eof()  # closing would reset the connection of a client that is still sending
        else:
            self._discard = rejection.request_size - received

    @property
    def discards(self) -> bool:
        """Whether the next bytes belong to a request that has been rejected."""
        return self._discard > 0

    @property
    def _between_requests(self) -> bool:
        """Whether the next bytes begin a request, and every response has been sent."""
        ended = self.cycle is None or self.cycle.response_complete
        parsed = self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]
        return ended and parsed and not self.transport.get_write_buffer_size()

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
            headers = {"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            self.transport.write(build_message(status, problem, headers, close=True))
        self.transport.close()


class ConnectionMonitor:
    """Closes every connection that waits for its client for longer than ``timeout_s`` seconds.

    A client is slow if it does not complete the headers of a request, does not complete the body of a request that has
    already been answered, does not read a response, or does not close a connection whose last request was rejected.
    Requests that are being processed have a deadline of their own.
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
        if transport.is_closing() or transport.get_write_buffer_size() or connection.discards:
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
        return "read", cycle, connection.rejections
    if cycle is None or cycle.response_complete:
        return "send", cycle, connection.rejections
    return None
