"""Routes: one file per resource."""

from fastapi import Depends, FastAPI

from app.api.dependencies import require_key
from app.api.routes import batch, docs, embed, explain, health, metrics, model, page, predict


def include_routers(app: FastAPI, *, require_keys: bool) -> None:
    """Adds every route; with ``require_keys``, predictions and the model need an API key.

    The routers are not nested, as FastAPI searches each level again for every request.
    """
    guards = [Depends(require_key)] if require_keys else []
    for router in (predict.router, batch.router, embed.router, explain.router, model.router):
        app.include_router(router, dependencies=guards)
    for router in (health.router, metrics.router, page.router, docs.router):
        app.include_router(router)
    app.mount("/static", page.static_files, name="static")
