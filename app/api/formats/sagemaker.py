"""Amazon SageMaker AI real-time endpoints.

Contract: SageMaker AI Developer Guide, "Use Your Own Inference Code with Hosting Services": the image runs with the
argument ``serve``, listens on port 8080, responds to ``GET /ping`` within 2 s and to ``POST /invocations``.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from app.api.dependencies import ContextDep, ServiceDep
from app.api.formats.common import Json
from app.api.openapi import IMAGE_BODY
from app.api.problems import PREDICTION_ERRORS, openapi_responses
from app.api.routes.predict import PredictQuery, predict
from app.api.schemas import PredictResponse

health = APIRouter(tags=["SageMaker"])
router = APIRouter(tags=["SageMaker"])


@health.get("/ping", summary="Readiness")
async def ping(response: Response, context: ContextDep) -> Json:
    """200 only if the service accepts predictions, else 503."""
    status = context.service.status if context.service is not None else "starting"
    if status != "ready":
        response.status_code = 503
    return {"status": status}


@router.post(
    "/invocations",
    summary="Classify an image",
    response_model=PredictResponse,
    responses=openapi_responses(*PREDICTION_ERRORS),
    openapi_extra={"requestBody": IMAGE_BODY},
)
async def invocations(request: Request, service: ServiceDep, query: Annotated[PredictQuery, Query()]) -> Response:
    """Classifies one image, in the forms that `/predict` accepts; `application/x-image` is one of them."""
    return await predict(request, service, query)
