"""Protocol: uvicorn's HTTP/1.1 connection, with the deadline and the limit for a request's head that it lacks."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.serving.errors import MEDIA_TYPE

MAX_HEAD_BYTES = 65536  # as much as uvicorn's other protocol takes


def limited_to(head_timeout_s: float) -> type[HttpToolsProtocol]:
    """The protocol for uvicorn whose requests' heads must arrive within ``head_timeout_s``: a class, as it wants."""
    return type("Protocol", (Protocol,), {"head_timeout_s": head_timeout_s})


class Protocol(HttpToolsProtocol):
    """Answers 408 where a head does not arrive in time, 431 where it does not end, and 400 where it is not HTTP.

    The clock runs from the connection's start, later from the first byte behind an answer, whatever that byte is:
    a head's, what is left of a body that was not wanted, or an empty line. The base class closes an idle connection.
    """

    head_timeout_s: float
    _in_head = True
    _head_began = False  # in the data at hand, somewhere behind another message
    _head_bytes = 0  # of the data that is the head's alone
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Starts the clock."""
        super().connection_made(transport)
        self._start_clock()

    def data_received(self, data: bytes) -> None:
        """Counts what belongs to an unfinished head, and starts the clock where nothing is being answered."""
        self._head_began = False
        super().data_received(data)
        if self._in_head and not self._head_began:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The head is over {MAX_HEAD_BYTES} bytes.")
        if self._deadline is None and (self._in_head or self.cycle.response_complete):
            self._start_clock()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._head_began, self._head_bytes = True, self.cycle is not None, 0

    def on_headers_complete(self) -> None:
        """A head ends."""
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left to wait for."""
        self._stop_clock()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Says as a problem what the base class says as plain text."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    def _start_clock(self) -> None:
        if not self.transport.is_closing():
            late = f"The head had not arrived after {self.head_timeout_s:g} s."
            self._deadline = self.loop.call_later(self.head_timeout_s, self._refuse, HTTPStatus.REQUEST_TIMEOUT, late)

    def _stop_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus, detail: str) -> None:
        self._stop_clock()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the answer before a pipelined head is not to be lost; then it closes
            self.flow.pause_reading()
            return
        problem: dict[str, Any] = {
            "type": "invalid-request",
            "title": status.phrase,
            "status": status.value,
            "detail": detail,
        }
        body = json.dumps(problem).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: {MEDIA_TYPE}\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
