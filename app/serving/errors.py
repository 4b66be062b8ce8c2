"""The service's error tree, and the only place that maps a failure to a status and problem+json (RFC 9457).

ServiceError
├── InvalidRequest        400  no file, an empty body, malformed multipart
├── Unauthorized          401  missing or wrong key, where keys are set
├── UploadTooLarge        413  the body is over the limit
├── UnsupportedMediaType  415  not an image format that is accepted
├── UnreadableImage       422  does not decode, or is cut off
│   └── TooManyPixels     422  the header announces more pixels than the limit
├── InvalidParameter      422  top_k out of range, an unknown parameter
├── Overloaded            503  the queue is full; Retry-After says when to come again
├── Unavailable           503  starting, draining, or the engine failed
└── DeadlineExceeded      504  the request's time was up
"""

import http
import math
from collections.abc import Mapping
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.api.schemas import Problem

MEDIA_TYPE = "application/problem+json"


class ServiceError(Exception):
    """A failure that owns its status; ``str(error)`` is the problem's detail."""

    status: ClassVar[int]
    type: ClassVar[str]
    title: ClassVar[str]

    @property
    def headers(self) -> Mapping[str, str]:
        """What the response carries besides the body."""
        return {}


class InvalidRequest(ServiceError):
    """The request holds no image where one belongs."""

    status, type, title = 400, "invalid-request", "Invalid request"


class Unauthorized(ServiceError):
    """The key is missing or wrong."""

    status, type, title = 401, "unauthorized", "Unauthorized"

    @property
    def headers(self) -> Mapping[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class UploadTooLarge(ServiceError):
    """The body is over the limit."""

    status, type, title = 413, "upload-too-large", "Upload too large"


class UnsupportedMediaType(ServiceError):
    """Not an image format that is accepted."""

    status, type, title = 415, "unsupported-media-type", "Unsupported media type"


class UnreadableImage(ServiceError):
    """The image does not decode, or is cut off."""

    status, type, title = 422, "invalid-image", "Invalid image"


class TooManyPixels(UnreadableImage):
    """The image's header announces more pixels than the limit."""

    status, type, title = 422, "image-too-large", "Image too large"


class InvalidParameter(ServiceError):
    """A parameter is unknown or out of range."""

    status, type, title = 422, "invalid-parameter", "Invalid parameter"


class Overloaded(ServiceError):
    """The queue is full; ``retry_after_s`` is how long it takes to drain at the measured rate."""

    status, type, title = 503, "overloaded", "Overloaded"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> Mapping[str, str]:
        return {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}


class Unavailable(ServiceError):
    """The service is starting, draining, or its engine failed."""

    status, type, title = 503, "unavailable", "Unavailable"


class DeadlineExceeded(ServiceError):
    """The request's time was up before its answer was there."""

    status, type, title = 504, "deadline-exceeded", "Deadline exceeded"


def problem_response(status: int, type: str, title: str, detail: str, headers: Mapping[str, str]) -> JSONResponse:  # noqa: A002
    """The problem+json response of one failure."""
    problem = Problem(type=type, title=title, status=status, detail=detail)
    return JSONResponse(problem.model_dump(), status, dict(headers), MEDIA_TYPE)


def service_problem(error: ServiceError) -> JSONResponse:
    """The response that ``error`` owns."""
    return problem_response(error.status, error.type, error.title, str(error), error.headers)


def unforeseen_problem() -> JSONResponse:
    """The response where an error in the service itself ended the request; what it was is for the log alone."""
    return problem_response(500, "about:blank", "Internal Server Error", "The service failed on this request.", {})


def describe(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:  # Any: FastAPI's own type
    """OpenAPI's ``responses``: one entry a status, each kind of failure with an example."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        content = {"schema": Problem.model_json_schema(), "examples": {}}
        entry = responses.setdefault(kind.status, {"description": kind.title, "content": {MEDIA_TYPE: content}})
        example = Problem(type=kind.type, title=kind.title, status=kind.status, detail=kind.__doc__ or "")
        entry["content"][MEDIA_TYPE]["examples"][kind.type] = {"value": example.model_dump()}
    return responses


def install_handlers(app: FastAPI) -> None:
    """Makes every failure of ``app``, its framework's included, answer as problem+json."""

    async def on_service_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ServiceError)  # noqa: S101 - registered for this class alone
        request.state.problem = error.type
        return service_problem(error)

    async def on_validation_error(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)  # noqa: S101
        found = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return await on_service_error(request, InvalidParameter(found))

    async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)  # noqa: S101
        title = http.HTTPStatus(error.status_code).phrase
        return problem_response(error.status_code, "about:blank", title, error.detail, error.headers or {})

    app.add_exception_handler(ServiceError, on_service_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
