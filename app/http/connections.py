"""ConnectionMonitor: closes the connections of clients that are too slow."""

import asyncio
import time
from collections.abc import Collection
from http import HTTPStatus

from app.http.protocol import Protocol

_CHECK_INTERVAL_S = 1.0


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
            state = connection.waits_for
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
