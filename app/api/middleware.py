"""RequestMiddleware: what every request gets before any route: an id, a deadline, early rejection, and its record."""

import asyncio
import logging
import time

from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.access_log import UNMATCHED, AccessEntry, log_access
from app.api.dependencies import AppContext
from app.api.problems import problem_response, problem_type
from app.api.request_id import find_request_id
from app.serving.errors import DeadlineExceeded, Unavailable

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Pure ASGI, outermost except for CORS.

    A POST that would not be admitted is rejected on its headers alone. Whatever happens, the client gets a response
    within ``request_timeout_s`` of its headers, and one line is logged.
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

    async def _run(self, exchange: "_Exchange") -> None:
        service = self._context.service
        if exchange.scope["method"] == "POST" and service is not None:
            service.check_admission()
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
        self.scope = scope
        self.receive = receive
        self.status = 0
        self.request_id = find_request_id(scope["headers"])
        self._root_length = len(scope.get("root_path", ""))
        self._started_at = time.monotonic()
        self._send = send
        self._context = context
        scope.setdefault("state", {})

    async def send(self, message: Message) -> None:
        """Sends a message of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.setdefault("headers", [])
            headers.append((b"x-request-id", self.request_id.encode()))
            if self._context.service is not None and self._context.service.draining:
                headers.append((b"connection", b"close"))
        await self._send(message)

    async def respond(self, error: Exception) -> None:
        """Sends the problem that ``error`` is."""
        row = problem_type(error)
        self.scope["state"]["problem"] = row.type if row else None
        await problem_response(error)(self.scope, self.receive, self.send)

    def record(self) -> None:
        """Counts and logs the request."""
        route = self._route()
        status, problem = self.status or 500, self.scope["state"].get("problem")
        duration_s = time.monotonic() - self._started_at
        self._context.telemetry.on_response(route, status, duration_s, problem)
        method: str = self.scope["method"]
        path: str = self.scope["path"]
        span = self._context.telemetry.current_span()
        log_access(AccessEntry(method, path, route, status, duration_s, self.request_id, problem, span))

    def _route(self) -> str:
        """The path of the route as it was declared, after that of the application it is mounted in."""
        route = self.scope.get("route")
        if isinstance(route, Route):  # includes FastAPI's
            mounted_at: str = self.scope.get("root_path", "")[self._root_length :]
            return mounted_at + route.path
        # FastAPI names no route for plain Starlette routes and mounted applications.
        endpoint = self.scope.get("endpoint")
        for outer in self.scope["router"].routes if endpoint is not None else ():
            if endpoint is getattr(outer, "app" if isinstance(outer, Mount) else "endpoint", None):
                return str(outer.path)
        return UNMATCHED
