"""POST /predict: an image in, its most probable classes out."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from pydantic_core import to_json

from app.api.body import BodyReader, admitted_body
from app.api.dependencies import ServiceDep
from app.api.openapi import IMAGE_BODY
from app.api.problems import PREDICTION_ERRORS, openapi_responses
from app.api.schemas import PredictResponse, StrictQuery, server_timing
from app.serving.results import Classification, ClassifyOptions

router = APIRouter(tags=["predict"])


class PredictQuery(StrictQuery):
    """The query parameters of a prediction; an unknown one is an error."""

    top_k: int | None = Field(
        None, ge=1, description="How many classes to return, at most the number of labels.", examples=[5]
    )
    min_probability: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Classes with a lower probability are left out."
    )

    def options(self) -> ClassifyOptions:
        """The same for the service."""
        return ClassifyOptions(self.top_k, self.min_probability)


@router.post(
    "/predict",
    summary="Classify an image",
    response_model=PredictResponse,
    responses=openapi_responses(*PREDICTION_ERRORS),
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def predict(request: Request, service: ServiceDep, query: Annotated[PredictQuery, Query()]) -> Response:
    """Returns the most probable classes of one image: the multipart part named `file`, or the body itself."""
    async with admitted_body(request, service, BodyReader.image) as image:
        result = await service.classify(image, query.options())
    return _response(service.engine.model.name, result)


def prediction_rows(result: Classification) -> list[dict[str, Any]]:  # Any: JSON
    """The predictions of one image as JSON."""
    return [
        {"label": item.label, "class_id": item.class_id, "probability": item.probability} for item in result.predictions
    ]


def _response(model: str, result: Classification) -> Response:
    content = {"model": model, "predictions": prediction_rows(result)}
    return Response(to_json(content), media_type="application/json", headers=server_timing(result.timings))
