"""HTTP in, HTTP out, nothing else."""

from fastapi import APIRouter, Depends

from app.api.dependencies import require_key
from app.api.routes import health, metrics, model, page, predict


def build_router(*, needs_key: bool) -> APIRouter:
    """Every route; predictions and the model ask for a key where ``needs_key``."""
    router = APIRouter()
    guards = [Depends(require_key)] if needs_key else []
    router.include_router(predict.router, dependencies=guards)
    router.include_router(model.router, dependencies=guards)
    router.include_router(health.router)
    router.include_router(metrics.router)
    router.include_router(page.router)
    return router
