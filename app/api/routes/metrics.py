"""GET /metrics for Prometheus."""

from fastapi import APIRouter, Response

from app.api.dependencies import ContextDep
from app.serving.telemetry import CONTENT_TYPE

router = APIRouter(tags=["metrics"])


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(context: ContextDep) -> Response:
    """Every collector in Prometheus' text format."""
    return Response(context.telemetry.render(), headers={"Content-Type": CONTENT_TYPE})
