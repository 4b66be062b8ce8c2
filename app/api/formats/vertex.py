"""Vertex AI custom containers for prediction.

Contract: Google Cloud documentation, "Custom container requirements for inference": port AIP_HTTP_PORT, health check
at AIP_HEALTH_ROUTE, predictions at AIP_PREDICT_ROUTE with ``{"instances": […], "parameters": …}``.
"""

from dataclasses import dataclass

from fastapi import APIRouter, HTTPException, Request, Response

from app.api.dependencies import ServiceDep
from app.api.formats.common import Json
from app.api.formats.instances import classify_instances
from app.api.openapi import JSON_BODY


@dataclass(frozen=True)
class VertexRoutes:
    """The paths that Vertex AI calls."""

    health: str
    predict: str


def folders(routes: VertexRoutes) -> list[str]:
    """The paths above the routes, except the root."""
    above = {path.rpartition("/")[0] for path in (routes.health, routes.predict)}
    return sorted(above - {""})


def build_routers(routes: VertexRoutes) -> tuple[APIRouter, APIRouter]:
    """The routers of the health check and of predictions."""
    health = APIRouter(tags=["Vertex AI"])
    router = APIRouter(tags=["Vertex AI"])
    health.get(routes.health, summary="Readiness", name="vertex_health", operation_id="vertex_health")(_ready)
    router.post(
        routes.predict,
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
