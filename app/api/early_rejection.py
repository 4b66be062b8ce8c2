"""EarlyRejection: the response to a POST that would not be admitted, made from the first bytes of the request.

Under overload most requests are rejected, so a rejection has to cost far less than a prediction. It is made before
the headers are parsed, the body is discarded as it arrives, and all rejections of a second share one log line.
"""

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from app.api.access_log import UNMATCHED
from app.api.dependencies import AppContext
from app.api.problems import MEDIA_TYPE, problem_content, problem_headers
from app.api.request_id import search_request_id
from app.serving.errors import Overloaded, Unavailable

logger = logging.getLogger(__name__)

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n")
_UNUSUAL = re.compile(
    rb"\r\n(?:connection|expect|transfer-encoding|upgrade)[ \t]*:|\r\n[ \t]|[^\r]\n|\r[^\n]|http/1\.0\r\n"
)


class Rejection(NamedTuple):
    """A whole response, and the size in bytes of the request; None if the connection ends with the response."""

    response: bytes
    request_size: int | None


class EarlyRejection:
    """Called with the first bytes of each POST; None if the request may be admitted."""

    def __init__(self, context: AppContext, *, log_interval_s: float = 1.0) -> None:
        self._context = context
        self._log_interval_s = log_interval_s
        self._not_logged = 0

    def __call__(self, data: bytes) -> Rejection | None:
        """The rejection of the POST that begins with ``data``."""
        service = self._context.service
        if service is None:
            return None
        try:
            service.check_admission()
        except (Overloaded, Unavailable) as error:
            end = data.find(b"\r\n\r\n")
            headers = data[: end + 2] if end > 0 else b""
            lower = headers.lower()
            if b"\r\norigin:" in lower:
                return None  # a browser, whose response needs the headers that the CORS middleware adds
            size = _request_size(lower)
            close = service.draining or size is None or size < len(data)  # a pipelined request follows
            return Rejection(self._respond(headers, error, close=close), None if close else size)
        return None

    def _respond(self, headers: bytes, error: Exception, *, close: bool) -> bytes:
        content = problem_content(error)
        self._context.telemetry.on_response(UNMATCHED, content["status"], 0.0, content["type"])
        if not self._not_logged:
            asyncio.get_running_loop().call_later(self._log_interval_s, self._log, content["type"])
        self._not_logged += 1
        fields = problem_headers(error) | {"X-Request-ID": search_request_id(headers)}
        return build_message(content["status"], content, fields, close=close)

    def _log(self, problem: str) -> None:
        logger.info("rejected %d requests within %g s: %s", self._not_logged, self._log_interval_s, problem)
        self._not_logged = 0


def _request_size(headers: bytes) -> int | None:
    """Bytes of the request with these headers, in lower case; None if they are ambiguous."""
    if not headers or _UNUSUAL.search(headers):
        return None
    length = _LENGTH.search(headers)
    if headers.count(b"content-length") != (length is not None):
        return None
    return len(headers) + 2 + (int(length[1]) if length else 0)


def build_message(status: int, problem: Mapping[str, object], headers: Mapping[str, str], *, close: bool) -> bytes:
    """One problem+json response in HTTP/1.1."""
    body = json.dumps(problem).encode()
    fields = {"Content-Type": MEDIA_TYPE, "Content-Length": str(len(body))} | dict(headers)
    if close:
        fields["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{lines}\r\n".encode() + body
