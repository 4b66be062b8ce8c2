"""Hugging Face Inference Endpoints: the task image-classification.

Contract: Hugging Face "Inference Providers" API specification of the task image classification: ``POST /`` with
``{"inputs": "<base64>", "parameters": {"top_k": …, "function_to_apply": …}}`` or the image itself.
"""

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from app.api.body import admitted_body
from app.api.decoding import decode_base64, parse_json
from app.api.dependencies import ServiceDep
from app.api.formats.common import Json, parse
from app.api.openapi import JSON_BODY
from app.serving.results import ClassifyOptions

router = APIRouter(tags=["Hugging Face"])


class Parameters(BaseModel):
    """The parameters of the task; unknown ones are ignored, as by the reference implementation."""

    top_k: int | None = Field(None, ge=1)
    function_to_apply: Literal["softmax", "sigmoid", "none"] | None = None


class Body(BaseModel):
    """The JSON body."""

    inputs: str
    parameters: Parameters | None = None


@router.post("/", summary="Classify an image", openapi_extra={"requestBody": JSON_BODY})
async def classify(request: Request, service: ServiceDep) -> list[Json]:
    """Returns labels and scores, highest first."""
    options = ClassifyOptions()

    async def from_json(document: bytes) -> bytes:
        nonlocal options
        body = parse(Body, parse_json(document))
        parameters = body.parameters or Parameters()
        options = ClassifyOptions(parameters.top_k, function=parameters.function_to_apply)
        return await decode_base64(body.inputs)

    async with admitted_body(request, service, lambda reader: reader.image(from_json)) as image:
        result = await service.classify(image, options)
    return [{"label": item.label, "score": item.probability} for item in result.predictions]
