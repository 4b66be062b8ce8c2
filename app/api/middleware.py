"""Pure ASGI around the routes: the request's id and its record, and the limit on its body."""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.serving.errors import Overloaded, Unavailable, UploadTooLarge, service_problem, unforeseen_problem
from app.serving.telemetry import Telemetry

logger = logging.getLogger(__name__)
access_log = logging.getLogger("app.access")

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_UNMATCHED = "unmatched"  # one metrics label for every path that no route has, so that no client can add labels


class RequestRecord:
    """Gives each request an id (the client's own X-Request-ID where it is sane), then counts and logs its answer."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started_at = time.monotonic()
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else uuid.uuid4().hex
        scope.setdefault("state", {}).update(started_at=started_at)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except asyncio.CancelledError:  # by the server, where the grace of its shutdown is over
            if status is None:
                await service_problem(Unavailable("The service is shutting down."))(scope, receive, send_with_id)
            raise
        except Exception:  # whatever a route failed to foresee is logged whole and answered as a problem
            if status is not None:
                raise
            logger.exception("request %s failed", request_id)
            await unforeseen_problem()(scope, receive, send_with_id)
        finally:
            self._record(scope, status or 500, time.monotonic() - started_at, request_id)

    def _record(self, scope: Scope, status: int, lasted_s: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", _UNMATCHED)
        rejected = scope["state"].get("problem")
        self._telemetry.on_response(route, status, lasted_s, rejected)
        access_log.info(
            "%s %s %d %.1f ms",
            scope["method"],
            route,
            status,
            1000 * lasted_s,
            extra={"request_id": request_id, "problem": rejected},
        )


class BodyLimit:
    """Stops a body at ``max_upload_bytes``, and new ones while all bodies in memory exceed ``max_buffered_bytes``."""

    def __init__(self, app: ASGIApp, max_upload_bytes: int, max_buffered_bytes: int) -> None:
        self.app = app
        self._max_upload_bytes = max_upload_bytes
        self._max_buffered_bytes = max_buffered_bytes
        self._buffered_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        announced = int(length) if length.isdecimal() and len(length) < 20 else 0
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            if announced > self._max_upload_bytes:
                raise self._too_large()
            message = await receive()
            size = len(message.get("body", b""))
            received += size
            self._buffered_bytes += size
            if received > self._max_upload_bytes:
                raise self._too_large()
            if self._buffered_bytes > self._max_buffered_bytes:
                raise Overloaded("The service holds all the uploads that its memory has room for.", 1.0)
            return message

        try:
            await self.app(scope, receive_counted, send)
        finally:
            self._buffered_bytes -= received

    def _too_large(self) -> UploadTooLarge:
        return UploadTooLarge(f"The request's body is over the limit of {self._max_upload_bytes} bytes.")
