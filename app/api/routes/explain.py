"""POST /explain: the class activation map of an image, as numbers or as a picture."""

import asyncio
import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import Field

from app.api.body import BodyReader, admitted_body
from app.api.dependencies import ServiceDep
from app.api.heatmap import draw
from app.api.openapi import BINARY, IMAGE_BODY
from app.api.problems import PREDICTION_ERRORS, NotAcceptable, openapi_responses
from app.api.schemas import ExplainResponse, StrictQuery, server_timing
from app.serving.results import Explanation

router = APIRouter(tags=["predict"])

_JSON, _PNG = "application/json", "image/png"
_QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")
_RESPONSES = openapi_responses(*PREDICTION_ERRORS, NotAcceptable) | {200: {"content": {_PNG: {"schema": BINARY}}}}


class ExplainQuery(StrictQuery):
    """The query parameters; an unknown one is an error."""

    class_id: int | None = Field(
        None, ge=0, description="The class to explain; unset: the most probable one.", examples=[281]
    )


@router.post(
    "/explain",
    summary="Compute a class activation map",
    response_model=ExplainResponse,
    responses=_RESPONSES,
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def explain(request: Request, service: ServiceDep, query: Annotated[ExplainQuery, Query()]) -> Response:
    """Returns the exact class activation map: the mean of `map` plus `bias` is the logit.

    With `Accept: image/png` the response is the map laid over the image as the network saw it.
    """
    media_type = _media_type(request.headers.get("accept", "*/*"))
    async with admitted_body(request, service, BodyReader.image) as image:
        result = await service.explain(image, query.class_id)
        picture = await asyncio.to_thread(draw, result.pixels, result.map.values) if media_type == _PNG else b""
    headers = server_timing(result.timings) | {"Vary": "Accept"}
    if media_type == _PNG:
        return Response(picture, media_type=_PNG, headers=headers)
    return JSONResponse({"model": service.engine.model.name, **explanation_content(result)}, headers=headers)


def explanation_content(result: Explanation) -> dict[str, Any]:  # Any: JSON
    """An explanation as JSON."""
    return {
        "class_id": result.prediction.class_id,
        "label": result.prediction.label,
        "probability": result.prediction.probability,
        "logit": result.logit,
        "bias": result.map.bias,
        "map": result.map.values.tolist(),
    }


def _media_type(accept: str) -> str:
    """The media type that an Accept header prefers (RFC 9110, 12.5.1). Raises ``NotAcceptable``."""
    ranges: dict[str, float] = {}
    for item in accept[:1000].split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        ranges[name] = _quality(parameters)
    qualities = {media_type: _match(media_type, ranges) for media_type in (_JSON, _PNG)}
    best = max(qualities, key=qualities.__getitem__)  # JSON if they are equal
    if qualities[best] > 0:
        return best
    raise NotAcceptable(f"The response can be {_JSON} or {_PNG}, which the Accept header excludes.")


def _match(media_type: str, ranges: dict[str, float]) -> float:
    """The quality of the most specific range that includes ``media_type``."""
    names = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((ranges[name] for name in names if name in ranges), 0.0)


def _quality(parameters: list[str]) -> float:
    """The value of ``q``: 1 if it is absent, 0 if it is malformed."""
    value = next((item[2:] for item in parameters if item.startswith("q=")), "1")
    return float(value) if _QUALITY.fullmatch(value) else 0.0
