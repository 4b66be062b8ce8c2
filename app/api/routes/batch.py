"""POST /predict/batch: several images in, one result or problem for each out."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic_core import to_json

from app.api.body import BodyReader, admitted_body
from app.api.context import context_of
from app.api.dependencies import ServiceDep
from app.api.form import FormFile
from app.api.openapi import BINARY
from app.api.problems import IMAGE_ERRORS, PREDICTION_ERRORS, openapi_responses, problem_content
from app.api.routes.predict import PredictQuery, prediction_rows
from app.api.schemas import BatchResponse
from app.serving.results import ClassifyOptions
from app.serving.service import ClassificationService

router = APIRouter(tags=["predict"])

_FORM = {"type": "object", "required": ["files"], "properties": {"files": {"type": "array", "items": BINARY}}}
_BODY = {"required": True, "content": {"multipart/form-data": {"schema": _FORM}}}


@router.post(
    "/predict/batch",
    summary="Classify several images",
    response_model=BatchResponse,
    responses=openapi_responses(*PREDICTION_ERRORS),
    openapi_extra={"requestBody": _BODY},
)
async def predict_batch(request: Request, service: ServiceDep, query: Annotated[PredictQuery, Query()]) -> Response:
    """Returns one result or problem for each multipart part named `files`, in order.

    All images are admitted together or not at all, and their body as a whole must be within the limit of one upload.
    An image that cannot be used does not fail the others.
    """

    async def read(reader: BodyReader) -> list[FormFile]:
        return await reader.files(context_of(request).max_images_per_request)

    options = query.options()
    async with admitted_body(request, service, read, len) as files:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(_classify(service, file, options)) for file in files]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
    content = {"model": service.engine.model.name, "results": [task.result() for task in tasks]}
    return Response(to_json(content), media_type="application/json")


async def _classify(
    service: ClassificationService, file: FormFile, options: ClassifyOptions
) -> dict[str, Any]:  # Any: JSON
    try:
        result = await service.classify(file.content, options)
    except IMAGE_ERRORS as error:
        return {"file_name": file.name, "problem": problem_content(error)}
    return {"file_name": file.name, "predictions": prediction_rows(result)}
