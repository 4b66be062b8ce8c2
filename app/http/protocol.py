"""Protocol: uvicorn's HTTP/1.1 protocol with the limits that it lacks.

This is the only file that relies on internals of uvicorn (its httptools protocol), whose minor version is therefore
capped.
"""

import asyncio
import math
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.api.early_rejection import Rejection, build_message

MAX_HEADER_BYTES = 65536
RejectEarly = Callable[[bytes], Rejection | None]
_PARSED_AT_ONCE = 2048  # bytes; more could hold more pipelined requests


class Protocol(HttpToolsProtocol):
    """Rejects connections above ``limit_concurrency``, and reports protocol errors as problem+json.

    Headers, and trailers, have at most ``MAX_HEADER_BYTES``, checked every 2 kB. Pipelined requests in the next 2 kB
    are queued, what comes after them is neither parsed nor read until they have their responses, and an error in one of
    them is reported in its turn. ``reject_early`` is called with the first bytes of each POST.
    """

    def __init__(self, *arguments: Any, reject_early: RejectEarly | None = None, **options: Any) -> None:
        # Any: the arguments of uvicorn's protocol
        super().__init__(*arguments, **options)
        self._reject_early = reject_early
        self._discard = 0.0  # how many of the next bytes belong to a rejected request
        self.rejections = 0
        self._running: RequestResponseCycle | None = None
        self.unparsed = memoryview(b"")
        self._in_headers = self._in_body = False
        self._body_left = 0  # bytes of a body whose length is known
        self._progress = False  # whether the bytes being parsed are part of a body, or end the headers or the request
        self._stalled_bytes = 0  # parsed since the last progress
        self._error: tuple[HTTPStatus, str, str] | None = None  # arguments of ``reject``

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accepts the connection, or sends a 503 and closes it."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self.connections.discard(self)
            self.reject(HTTPStatus.SERVICE_UNAVAILABLE, "overloaded", "There are too many open connections.")

    def data_received(self, data: bytes) -> None:
        """Rejects a request on its first bytes, or parses them."""
        if self._discard:
            discarded = int(min(self._discard, len(data)))
            self._discard -= discarded
            data = data[discarded:]
        if not data or self._error is not None:
            return
        if self._reject_early is not None and data.startswith(b"POST ") and self._between_requests:
            rejection = self._reject_early(data)
            if rejection is not None:
                self._send_rejection(rejection, len(data))
                return
        self._unset_keepalive_if_required()
        self.unparsed = memoryview(bytes(self.unparsed) + data if self.unparsed else data)
        self._parse()

    def _parse(self) -> None:
        while self.unparsed and not self.pipeline and self._error is None and not self.transport.is_closing():
            size = max(_PARSED_AT_ONCE, self._body_left)
            self.unparsed = self.unparsed[self._parse_part(self.unparsed[:size]) :]
        if self.unparsed:
            self.flow.pause_reading()

    def _parse_part(self, data: memoryview) -> int:
        """Returns how many bytes were parsed."""
        self._progress = False
        parsed = len(data)
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                parsed = upgrade.args[0]
                self._decline_upgrade()
        except httptools.HttpParserCallbackError as error:
            self._fail_callback(error)
        except httptools.HttpParserError as error:
            self._fail(HTTPStatus.BAD_REQUEST, "invalid-request", f"The request is not valid HTTP/1.1: {error}.")
        self._stalled_bytes = 0 if self._progress else self._stalled_bytes + parsed
        if self._stalled_bytes > MAX_HEADER_BYTES:
            detail = f"The headers exceed the limit of {MAX_HEADER_BYTES} bytes."
            self._fail(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "invalid-request", detail)
        return parsed

    def _decline_upgrade(self) -> None:
        """Parses the headers again without ``Upgrade``, because the parser would not take what follows for HTTP."""
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self.parser.feed_data(b"\r\n".join(lines) + b"\r\n\r\n")

    def on_message_begin(self) -> None:
        """Called by the parser for the first byte of a request."""
        self._in_headers = True
        self._stalled_bytes = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser for each header, and for each trailer, which is ignored."""
        if self._in_headers:
            super().on_header(name, value.rstrip(b" \t"))
        elif name.lower() == b"connection":
            raise ValueError("Connection is not allowed as a trailer")

    def on_headers_complete(self) -> None:
        """Starts the request, or queues it if it is pipelined. Raises ``ValueError`` where llhttp is too lenient."""
        version = self.parser.get_http_version()
        check_request(version, self.parser.get_method(), self.url, self.headers)
        if self.parser.should_upgrade():
            return  # the parser stops here
        if version == "1.0":
            self.expect_100_continue = False
        super().on_headers_complete()
        self._in_headers, self._in_body, self._progress = False, True, True
        self._body_left = int(dict(self.headers).get(b"content-length", 0))

    def on_body(self, body: bytes) -> None:
        """Called by the parser for each part of a body."""
        self._progress = True
        self._body_left -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Called by the parser after the last byte of a request."""
        if self.parser.should_upgrade():
            return
        self._in_body, self._progress, self._body_left = False, True, 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Starts the next request of the pipeline, and goes on parsing."""
        super().on_response_complete()
        if self._error is not None:
            self._report_error()
        else:
            self._parse()
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is being processed; drops what has not been started."""
        if self.pipeline and self._running is not None:
            self.cycle = self._running
            self.pipeline.clear()
        self.unparsed = memoryview(b"")
        super().connection_lost(exc)

    def _fail_callback(self, error: httptools.HttpParserCallbackError) -> None:
        """Reports what a method that the parser calls has raised."""
        match error.__context__:
            case MemoryError():
                detail = "There is not enough memory for this request."
                self._fail(HTTPStatus.SERVICE_UNAVAILABLE, "unavailable", detail)
            case ValueError() as cause:
                self._fail(HTTPStatus.BAD_REQUEST, "invalid-request", f"The request is not valid HTTP/1.1: {cause}.")
            case _:
                raise error

    def _fail(self, status: HTTPStatus, problem_type: str, detail: str) -> None:
        self._error = status, problem_type, detail
        self._report_error()

    def _report_error(self) -> None:
        """Reports the error in the last request, once every request before that has its response."""
        if self._error is not None and not self.pipeline and (self._in_body or self._responded):
            self.reject(*self._error)

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
    def waits_for(self) -> object:
        """What the connection waits for its client to do, different for each request; None if it does not."""
        if self.transport.get_write_buffer_size() or self.transport.is_closing():
            return "read", self.cycle, self.rejections
        if self._responded:
            return "send", self.cycle, self.rejections
        return None

    @property
    def _responded(self) -> bool:
        """Whether the last request that was started has its response."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _between_requests(self) -> bool:
        """Whether the next bytes begin a request, and every response has been sent."""
        parsed = not self._in_headers and not self._in_body and not self.unparsed and self._error is None
        return parsed and self._responded and not self.transport.get_write_buffer_size()

    def reject(self, status: HTTPStatus, problem_type: str, detail: str) -> None:
        """Sends a problem, unless a response has begun or another one is due, and closes the connection."""
        if self.transport.is_closing():
            return
        if self._in_body and not self.cycle.response_started:
            self.cycle.disconnected = True  # its own response would be a second one
            self.cycle.message_event.set()
            may_respond = True
        else:
            may_respond = self._responded and not self._in_body
        if may_respond:
            problem = {"type": problem_type, "title": status.phrase, "status": status.value, "detail": detail}
            headers = {"Retry-After": "5"} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
            self.transport.write(build_message(status, problem, headers, close=True))
        self.transport.close()


class _Flow(FlowControl):
    """Does not resume reading while the protocol has more to parse."""

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        """Called for each message that the application receives, and after each response."""
        if not self._protocol.unparsed:
            super().resume_reading()


def check_request(version: str, method: bytes, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    """Raises ``ValueError`` for what RFC 9110 and 9112 forbid or leave to the server, and llhttp accepts."""
    if version not in ("1.0", "1.1"):
        raise ValueError(f"the version {version} is not supported")
    if method == b"CONNECT":
        raise ValueError("CONNECT is not supported")
    try:
        path = httptools.parse_url(url).path
    except httptools.HttpParserInvalidURLError:
        path = None
    if not path:
        raise ValueError("the URL has no path or is invalid")
    hosts = [name for name, _ in headers].count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise ValueError("there must be one Host header")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        raise ValueError("the only Transfer-Encoding that is supported is chunked")
