"""Exceptions to HTTP responses: status codes, problem+json (RFC 9457), OpenAPI responses, exception handlers."""

import http
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from app.api.route_table import RouteInfo
from app.serving import errors
from model.errors import ImageTooLarge, InvalidImage, UnsupportedFormat

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL_LENGTH = 2000  # characters; what a client has sent may be quoted in a detail
ABOUT_BLANK = "about:blank"  # RFC 9457: the problem is what the status code says


class InvalidRequest(Exception):
    """The request has no image, or its body is malformed."""


class Unauthorized(Exception):
    """The API key is missing or wrong."""


class UploadTooLarge(Exception):
    """The body exceeds the size limit."""


class UnsupportedMediaType(Exception):
    """The content type is not one of the accepted image formats."""


class UnsupportedEncoding(UnsupportedMediaType):
    """The content encoding is not accepted."""


class NotAcceptable(Exception):
    """The Accept header excludes every media type of the response."""


@dataclass(frozen=True)
class ProblemType:
    """One row of the error table: what a kind of failure looks like over HTTP."""

    status: int
    type: str
    title: str
    description: str


_PROBLEM_TYPES: dict[type[Exception], ProblemType] = {
    InvalidRequest: ProblemType(400, "invalid-request", "Invalid request", "There is no part named 'file'."),
    Unauthorized: ProblemType(401, "unauthorized", "Unauthorized", "The API key is missing or wrong."),
    NotAcceptable: ProblemType(
        406, "not-acceptable", "Not acceptable", "The response can be application/json or image/png."
    ),
    UploadTooLarge: ProblemType(413, "upload-too-large", "Upload too large", "The body exceeds the limit."),
    UnsupportedMediaType: ProblemType(
        415, "unsupported-media-type", "Unsupported media type", "The content type 'text/plain' is not accepted."
    ),
    UnsupportedFormat: ProblemType(
        415, "unsupported-media-type", "Unsupported media type", "The file is not in an accepted image format."
    ),
    ImageTooLarge: ProblemType(422, "image-too-large", "Image too large", "The image exceeds the pixel limit."),
    InvalidImage: ProblemType(422, "invalid-image", "Invalid image", "The JPEG image is truncated."),
    errors.InvalidParameter: ProblemType(
        422, "invalid-parameter", "Invalid parameter", "top_k: 0 is not between 1 and 1000."
    ),
    errors.Overloaded: ProblemType(503, "overloaded", "Overloaded", "Too many images are waiting."),
    errors.Unavailable: ProblemType(503, "unavailable", "Unavailable", "The service is shutting down."),
    errors.DeadlineExceeded: ProblemType(
        504, "deadline-exceeded", "Deadline exceeded", "The request was not completed within 30 s."
    ),
}
PREDICTION_ERRORS = tuple(kind for kind in _PROBLEM_TYPES if kind is not NotAcceptable)
"""Everything that a prediction can fail with."""

IMAGE_ERRORS = (UnsupportedFormat, ImageTooLarge, InvalidImage)
"""What is wrong with one image, not with its request or the service."""

_UNAVAILABLE_RETRY_AFTER_S = 5


def problem_type(error: Exception) -> ProblemType | None:
    """The row of the error table for ``error``, by its class or the nearest base class."""
    return next((_PROBLEM_TYPES[cls] for cls in type(error).__mro__ if cls in _PROBLEM_TYPES), None)


def problem_content(error: Exception) -> dict[str, Any]:  # Any: JSON
    """The problem JSON for ``error``, which must be in the table."""
    row = problem_type(error)
    assert row is not None  # noqa: S101 - see above
    return {"type": row.type, "title": row.title, "status": row.status, "detail": str(error)}


def error_response(error: Exception, route: RouteInfo | None = None) -> JSONResponse:
    """The response for ``error``; a 500 without details for an exception that is not in the table.

    Problem+json, or ``{"error": message}`` if the clients of ``route`` expect that.
    """
    row = problem_type(error)
    if row is None:
        return build_response(500, ABOUT_BLANK, "Internal Server Error", "The service failed on this request.", route)
    return build_response(row.status, row.type, row.title, str(error), route, _headers(error))


def build_response(
    status: int,
    type: str,  # noqa: A002 - RFC 9457's name
    title: str,
    detail: str,
    route: RouteInfo | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """One response for an error; the end of a very long detail is left out."""
    detail = detail if len(detail) <= _MAX_DETAIL_LENGTH else f"{detail[:_MAX_DETAIL_LENGTH]}…"
    if route is not None and route.plain_errors:
        return JSONResponse({"error": detail}, status, headers)
    content = {"type": type, "title": title, "status": status, "detail": detail}
    return JSONResponse(content, status, headers, MEDIA_TYPE)


def openapi_responses(*kinds: type[Exception]) -> dict[int | str, dict[str, Any]]:  # Any: FastAPI's own type
    """OpenAPI's ``responses``: one entry per status code, with an example for each kind of failure."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        row = _PROBLEM_TYPES[kind]
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        entry = responses.setdefault(row.status, {"description": row.title, "content": {MEDIA_TYPE: content}})
        if row.title not in entry["description"].split(", "):
            entry["description"] += f", {row.title}"
        example = {"type": row.type, "title": row.title, "status": row.status, "detail": row.description}
        entry["content"][MEDIA_TYPE]["examples"][row.type] = {"value": example}
    return responses


def install_handlers(app: FastAPI) -> None:
    """Makes every failure of ``app``, its framework's included, an ``error_response``."""

    async def on_known_error(request: Request, error: Exception) -> JSONResponse:
        request.state.problem = problem_content(error)["type"]
        return error_response(error, request.state.route)

    async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class alone
        details = [(".".join(map(str, item["loc"][1:])), item["msg"]) for item in error.errors()]
        text = "; ".join(f"{name}: {message}" if name else message for name, message in details)
        return await on_known_error(request, errors.InvalidParameter(text))

    async def on_http_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
        title = http.HTTPStatus(error.status_code).phrase
        headers = dict(error.headers or {})
        detail = error.detail
        if error.status_code == 405:
            headers["Allow"] = re.sub(r"\bGET\b", "GET, HEAD", headers.get("Allow", ""))
            detail = (
                f"The method {request.method} is not allowed for this path; use {headers['Allow']}. {_hint(request)}"
            )
        elif detail == title and error.status_code == 404:
            detail = f"There is nothing at this path. {_hint(request)}"
        return build_response(error.status_code, ABOUT_BLANK, title, detail, request.state.route, headers)

    async def on_disconnect(_request: Request, _error: Exception) -> Response:
        return Response(status_code=499)  # only the log sees it

    for kind in _PROBLEM_TYPES:
        app.add_exception_handler(kind, on_known_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(ClientDisconnect, on_disconnect)


def _hint(request: Request) -> str:
    root = request.scope.get("root_path", "").rstrip("/")
    return f"Images are classified by POST {root}/predict; the documentation is at {root}/docs."


def _headers(error: Exception) -> dict[str, str]:
    """The headers that the response for ``error`` has besides those of every response."""
    match error:
        case errors.Overloaded():
            return {"Retry-After": str(max(1, math.ceil(error.retry_after_s)))}
        case errors.Unavailable():
            return {"Retry-After": str(_UNAVAILABLE_RETRY_AFTER_S)}
        case UnsupportedEncoding():
            return {"Accept-Encoding": "gzip, deflate"}
        case NotAcceptable():
            return {"Vary": "Accept"}
        case Unauthorized():
            return {"WWW-Authenticate": "Bearer"}
        case _:
            return {}
