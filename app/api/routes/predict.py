"""POST /predict: an image in, its most probable classes out."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect
from starlette.types import Message

from app.api.dependencies import ContextDep, ServiceDep
from app.api.problems import PREDICTION_ERRORS, openapi_responses
from app.api.schemas import PredictResponse
from app.serving.admission import Permit
from app.serving.service import Classification

router = APIRouter(tags=["predict"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "schema": {
        "type": "object",
        "required": ["file"],
        "properties": {"file": {"type": "string", "format": "binary", "description": "The image."}},
    }
}
_BODY = {"required": True, "content": {"multipart/form-data": _FORM, "image/*": _BINARY}}


class PredictQuery(BaseModel):
    """The query parameters of a prediction; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid")

    top_k: int | None = Field(
        None, ge=1, description="How many classes to return, at most the number of labels.", examples=[5]
    )


@router.post("/predict/", include_in_schema=False)
@router.post(
    "/predict",
    summary="Classify an image",
    response_model=PredictResponse,
    responses=openapi_responses(*PREDICTION_ERRORS),
    openapi_extra={"requestBody": _BODY},
)
async def predict(
    request: Request, context: ContextDep, service: ServiceDep, query: Annotated[PredictQuery, Query()]
) -> Response:
    """Returns the most probable classes of one image: the multipart part named `file`, or the body itself."""
    try:
        with service.admit() as permit, context.uploads.reading(request) as reader:
            async with _without_place_if_slow(permit, context.upload_grace_s):
                image = await reader.image()
            async with _cancelled_on_disconnect(request):
                result = await service.classify(image, query.top_k)
    except ClientDisconnect:
        return Response(status_code=499)  # only the log sees it
    return _response(service.engine.model.name, result)


@asynccontextmanager
async def _without_place_if_slow(permit: Permit, grace_s: float) -> AsyncIterator[None]:
    """Releases the place of an upload after ``grace_s``; raises ``Overloaded`` if none is free when it is complete."""
    timer = asyncio.get_running_loop().call_later(grace_s, permit.resize, 0)
    try:
        yield
    finally:
        timer.cancel()
    permit.resize(1)


@asynccontextmanager
async def _cancelled_on_disconnect(request: Request) -> AsyncIterator[None]:
    """Cancels the block when the client disconnects, and raises ``ClientDisconnect``."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - an async function always runs in a task
    watcher: asyncio.Future[Message] = asyncio.ensure_future(request.receive())

    def cancel(_watcher: asyncio.Future[Message]) -> None:
        task.cancel()

    watcher.add_done_callback(cancel)
    try:
        yield
    except asyncio.CancelledError:
        if not watcher.done():
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        watcher.remove_done_callback(cancel)
        watcher.cancel()


def _response(model: str, result: Classification) -> Response:
    predictions = [
        {"label": item.label, "class_id": item.class_id, "probability": item.probability} for item in result.predictions
    ]
    body = json.dumps({"model": model, "predictions": predictions}, ensure_ascii=False, separators=(",", ":"))
    durations = {"decode": result.decode_s, "queue": result.queue_s, "inference": result.inference_s}
    timing = ", ".join(f"{name};dur={1000 * seconds:.3f}" for name, seconds in durations.items())
    return Response(body, media_type="application/json", headers={"Server-Timing": timing})
