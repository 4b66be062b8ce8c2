"""POST /predict: an image in, its most probable classes out."""

import asyncio
import time
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from app.api.dependencies import ClassifierDep
from app.api.schemas import Prediction, PredictResponse
from app.serving.errors import (
    DeadlineExceeded,
    InvalidParameter,
    InvalidRequest,
    Overloaded,
    TooManyPixels,
    Unauthorized,
    Unavailable,
    UnreadableImage,
    UnsupportedMediaType,
    UploadTooLarge,
    describe,
)
from app.serving.service import Classification

router = APIRouter(tags=["predict"])

Value = TypeVar("Value")

_REFUSALS = describe(
    InvalidRequest,
    Unauthorized,
    UploadTooLarge,
    UnsupportedMediaType,
    UnreadableImage,
    TooManyPixels,
    InvalidParameter,
    Overloaded,
    Unavailable,
    DeadlineExceeded,
)
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary", "description": "The image."}},
    }
}
_BODY = {"required": True, "content": {"multipart/form-data": _UPLOAD, "image/*": _BINARY}}


class PredictQuery(BaseModel):
    """The parameters of a prediction; an unknown one is refused."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(
        None, ge=1, description="How many classes to answer with, up to all of them.", examples=[5]
    )


@router.post(
    "/predict",
    summary="Classify an image",
    response_model=PredictResponse,
    responses=_REFUSALS,
    openapi_extra={"requestBody": _BODY},
)
async def predict(request: Request, classifier: ClassifierDep, query: Annotated[PredictQuery, Query()]) -> Response:
    """Answers with the most probable classes of one image: a multipart part named `file`, or the body itself."""
    deadline = request.state.started_at + request.app.state.request_timeout_s
    with classifier.admission():
        try:
            data = await _read_image(request, deadline)
            result = await _while_connected(request, classifier.classify(data, query.top_k, deadline))
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it; it is for the record
    return _answer(classifier.engine.model.name, result)


async def _read_image(request: Request, deadline: float) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            if kind == "multipart/form-data":
                return await _read_part(request)
            if kind.startswith("image/") or kind in ("", "application/octet-stream"):
                return await request.body()
    except TimeoutError as error:
        raise DeadlineExceeded("The body had not arrived by the request's deadline.") from error
    raise UnsupportedMediaType(
        f"Content type {kind!r} is not accepted: send multipart/form-data with a part named 'file', or the image itself"
        " as image/jpeg, image/png, image/webp, image/gif, image/bmp, image/tiff or image/avif."
    )


class _InMemoryParser(MultiPartParser):
    """Starlette's parser without its temporary files: the body's limit already bounds what it holds."""

    spool_max_size = 1 << 62


async def _read_part(request: Request) -> bytes:
    try:
        form = await _InMemoryParser(request.headers, request.stream(), max_files=1, max_fields=8).parse()
    except (MultiPartException, LookupError, ValueError) as error:  # the latter two: odd boundaries and charsets
        raise InvalidRequest(f"The multipart body is malformed: {getattr(error, 'message', error)}") from error
    unexpected = sorted(set(form) - {"file"})
    if unexpected:
        raise InvalidRequest(f"The part {unexpected[0]!r} is not known; the image's part is named 'file'.")
    upload = form.get("file")
    if upload is None:
        raise InvalidRequest("There is no part named 'file'.")
    if isinstance(upload, str):
        raise InvalidRequest("The part 'file' is a text field, not a file.")
    return await upload.read()


async def _while_connected(request: Request, work: Coroutine[Any, Any, Value]) -> Value:
    """Awaits ``work``, and cancels it where the client leaves first: raises ``ClientDisconnect``."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _answer(model: str, result: Classification) -> Response:
    predictions = [
        Prediction.model_construct(label=one.label, class_id=one.class_id, probability=one.probability)
        for one in result.classes
    ]
    body = PredictResponse.model_construct(model=model, predictions=predictions)
    parts = {"decode": result.decode_s, "queue": result.queue_s, "inference": result.inference_s}
    timing = ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in parts.items())
    return Response(body.model_dump_json(), media_type="application/json", headers={"Server-Timing": timing})
