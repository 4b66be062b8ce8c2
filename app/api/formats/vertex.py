"""Vertex AI custom containers for prediction.

Contract: Google Cloud documentation, "Custom container requirements for inference": port AIP_HTTP_PORT, health check
at AIP_HEALTH_ROUTE, predictions at AIP_PREDICT_ROUTE with ``{"instances": […], "parameters": …}``.
"""

from fastapi import APIRouter, HTTPException, Request, Response

from app.api.dependencies import ServiceDep
from app.api.formats.common import Json
from app.api.formats.instances import classify_instances
from app.api.openapi import JSON_BODY


def build_routers(health_path: str, predict_path: str) -> tuple[APIRouter, APIRouter]:
    """The routers of the health check and of predictions."""
    health = APIRouter(tags=["Vertex AI"])
    router = APIRouter(tags=["Vertex AI"])
    health.get(health_path, summary="Readiness", name="vertex_health", operation_id="vertex_health")(_ready)
    router.post(
        predict_path,
        summary="Classify images",
        name="vertex_predict",
        operation_id="vertex_predict",
        openapi_extra={"requestBody": JSON_BODY},
    )(_predict)
    return health, router


async def _ready(service: ServiceDep) -> Json:
    """200 only if the service accepts predictions, else 503."""
    if service.status != "ready":
        raise HTTPException(503, f"The service is {service.status}.")
    return {"status": service.status}


async def _predict(request: Request, service: ServiceDep) -> Response:
    """One list of classes per instance, ``{"b64": "…"}``; ``parameters`` may have ``top_k`` and ``min_probability``."""
    return await classify_instances(request, service)
