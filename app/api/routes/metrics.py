"""GET /metrics for Prometheus."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.dependencies import ContextDep
from app.serving.telemetry import CONTENT_TYPE

router = APIRouter(tags=["metrics"])


_TEXT: dict[int | str, dict[str, Any]] = {  # Any: FastAPI's own type of OpenAPI responses
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}}
}


@router.get("/metrics", summary="Prometheus metrics", response_class=Response, responses=_TEXT)
async def metrics(context: ContextDep) -> Response:
    """Every collector in Prometheus' text format."""
    return Response(context.telemetry.render(), headers={"Content-Type": CONTENT_TYPE})
