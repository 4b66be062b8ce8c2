"""Routes: one file per resource."""

from fastapi import APIRouter, Depends

from app.api.dependencies import require_key
from app.api.routes import docs, health, metrics, model, page, predict


def build_router(*, require_keys: bool) -> APIRouter:
    """Every route; with ``require_keys``, predictions and the model need an API key."""
    router = APIRouter()
    guards = [Depends(require_key)] if require_keys else []
    router.include_router(predict.router, dependencies=guards)
    router.include_router(model.router, dependencies=guards)
    router.include_router(health.router)
    router.include_router(metrics.router)
    router.include_router(page.router)
    router.include_router(docs.router)
    return router
