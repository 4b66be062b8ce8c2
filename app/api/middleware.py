"""RequestMiddleware: the id, deadline, admission, metrics and log line of every request."""

import asyncio
import contextlib
import logging
import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access_log import AccessEntry, log_access
from app.api.context import AppContext
from app.api.problems import error_response, problem_type
from app.api.request_id import find_request_id
from app.serving.errors import DeadlineExceeded, Overloaded, Unavailable

logger = logging.getLogger(__name__)

_DISCARD_S = 5.0


class RequestMiddleware:
    """Pure ASGI, outermost except for CORS.

    A POST that would not be admitted is rejected on its headers alone. Whatever happens, the client gets a response
    within ``request_timeout_s`` of its headers, and one line is logged. HEAD is answered as GET without a body, and a
    slash at the end of a prediction's path does not matter.
    """

    def __init__(self, app: ASGIApp, context: AppContext) -> None:
        self.app = app
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._context)
        try:
            self._check(exchange)
            await self._run(exchange)
        except asyncio.CancelledError:  # by the server, when the grace period of its shutdown is over
            if not exchange.status:
                await exchange.respond(Unavailable("The service is shutting down."))
            raise
        except Exception as error:
            if exchange.status:
                raise  # a response has begun: the server closes the connection
            if problem_type(error) is None:
                logger.exception("request %s failed", exchange.request_id)
            await exchange.respond(error)
        finally:
            exchange.record()

    def _check(self, exchange: "_Exchange") -> None:
        """Raises what the request is rejected with on its headers."""
        service = self._context.service
        if exchange.over_limit and not exchange.route.is_probe:
            raise Overloaded("There are too many open connections.", 5.0)
        if exchange.method == "POST" and service is not None:
            service.check_admission()

    async def _run(self, exchange: "_Exchange") -> None:
        timeout_s = self._context.request_timeout_s
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                await self.app(exchange.scope, exchange.receive, exchange.send)
        except MemoryError as error:
            raise Unavailable("There is not enough memory for this request.") from error
        except TimeoutError as error:
            if not timeout.expired():
                raise
            raise DeadlineExceeded(f"The request was not completed within {timeout_s:g} s.") from error


class _Exchange:
    """One request and its response; ``status`` is 0 until the response begins."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, context: AppContext) -> None:
        self._receive = receive
        self._body_received = False
        self.status = 0
        self.request_id = find_request_id(scope["headers"])
        self.method: str = scope["method"]
        self._started_at = time.monotonic()
        self._send = send
        self._context = context
        path, root = scope["path"], scope.get("root_path", "")
        self.route = context.routes.find(path.removeprefix(root))
        if path.removeprefix(root) == f"{self.route.name}/":
            path = path[:-1]
        self.scope: Scope = {
            **scope,
            "path": path,
            "method": "GET" if self.method == "HEAD" else self.method,
            "state": {**scope.get("state", {}), "route": self.route},
        }
        self.over_limit: bool = self.scope["state"].get("over_limit", False)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this response."""
        draining = self._context.service is not None and self._context.service.draining
        return draining or self.over_limit

    async def receive(self) -> Message:
        """The next part of the body, or the client's disconnect."""
        message = await self._receive()
        self._body_received = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends a message of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.setdefault("headers", [])
            headers.append((b"x-request-id", self.request_id.encode()))
            if self.closes:
                headers.append((b"connection", b"close"))
        elif self.method == "HEAD":
            message = {**message, "body": b""}
        if message["type"] == "http.response.body" and not message.get("more_body") and self._body_is_left:
            await self._send({**message, "more_body": True})
            await self._discard_body()
            message = {**message, "body": b""}
        await self._send(message)

    @property
    def _body_is_left(self) -> bool:
        """Whether the server would close a connection on which the client is still sending, and reset it thereby.

        The client would lose the response. Connections that stay open are read on by the server.
        """
        headers = self.scope["headers"]
        closes = self.closes or self.scope.get("http_version") == "1.0" or (b"connection", b"close") in headers
        return closes and not self._body_received and not any(name == b"expect" for name, _ in headers)

    async def _discard_body(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while not self._body_received:
                    await self.receive()

    async def respond(self, error: Exception) -> None:
        """Sends the response for ``error``."""
        row = problem_type(error)
        self.scope["state"]["problem"] = row.type if row else None
        await error_response(error, self.route)(self.scope, self.receive, self.send)

    def record(self) -> None:
        """Counts and logs the request."""
        status, problem = self.status or 500, self.scope["state"].get("problem")
        duration_s = time.monotonic() - self._started_at
        self._context.telemetry.on_response(self.route.name, status, duration_s, problem)
        path: str = self.scope["path"]
        span = self._context.telemetry.current_span()
        entry = AccessEntry(self.method, path, self.route.name, status, duration_s, self.request_id, problem, span)
        log_access(entry, is_probe=self.route.is_probe)
