"""GET /health, /health/live and /health/ready, for orchestration."""

from typing import Any

from fastapi import APIRouter, Response

from app.api.dependencies import ClassifierOrNoneDep
from app.api.schemas import Health, Liveness

router = APIRouter(tags=["health"])

_UNREADY: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Starting, draining or failed."}}
_DEAD: dict[int | str, dict[str, Any]] = {503: {"model": Liveness, "description": "Beyond use; restart it."}}


@router.head("/health", include_in_schema=False)
@router.head("/health/ready", include_in_schema=False)
@router.get("/health", summary="Can it answer predictions?", responses=_UNREADY)
@router.get("/health/ready", summary="Can it answer predictions?", responses=_UNREADY)
async def ready(response: Response, classifier: ClassifierOrNoneDep) -> Health:
    """200 only when a prediction would be admitted, else 503; the body says why."""
    if classifier is None:
        response.status_code = 503
        return Health(status="starting", model=None, device=None, precision=None)
    engine, status = classifier.engine, classifier.status
    if status != "ready":
        response.status_code = 503
    return Health(status=status, model=engine.model.name, device=str(engine.device), precision=engine.precision)


@router.head("/health/live", include_in_schema=False)
@router.get("/health/live", summary="Is the process of use?", responses=_DEAD)
async def live(response: Response, classifier: ClassifierOrNoneDep) -> Liveness:
    """503 only when nothing but a restart helps: a lost device, or a batch that does not end."""
    if classifier is not None and classifier.status == "failed":
        response.status_code = 503
        return Liveness(status="failed")
    return Liveness(status="alive")
