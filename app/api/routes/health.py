"""GET /health, /health/ready and /health/live, for orchestration."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.dependencies import ContextDep
from app.api.schemas import Health, Liveness

router = APIRouter(tags=["health"])

# Any: FastAPI's own type of OpenAPI responses.
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Starting, draining or failed."}}
_FAILED: dict[int | str, dict[str, Any]] = {503: {"model": Liveness, "description": "Failed; restart the process."}}


@router.get("/health", summary="Readiness", responses=_NOT_READY)
@router.get("/health/ready", summary="Readiness", responses=_NOT_READY)
async def ready(response: Response, context: ContextDep) -> Health:
    """200 only if the service accepts predictions, in this worker or in another one, else 503."""
    service = context.service
    if service is None:
        response.status_code = 503
        return Health(status="starting", model=None, device=None, precision=None)
    engine, status = service.engine, service.status
    if status in ("failing", "failed") and context.another_is_ready():
        status = "ready"
    if status != "ready":
        response.status_code = 503
    return Health(status=status, model=engine.model.name, device=str(engine.device), precision=engine.precision)


@router.get("/health/live", summary="Liveness", responses=_FAILED)
async def live(response: Response, context: ContextDep) -> Liveness:
    """503 only if the process must be restarted: the device is lost, or a batch or decoder does not end.

    A process that has failed ends after 2 s. The service is alive as long as another worker is ready.
    """
    if context.service is not None and context.service.status == "failed" and not context.another_is_ready():
        response.status_code = 503
        return Liveness(status="failed")
    return Liveness(status="alive")
