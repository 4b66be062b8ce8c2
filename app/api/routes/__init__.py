"""Routes: one file per resource."""

from fastapi import Depends, FastAPI

from app.api.dependencies import require_key
from app.api.route_table import RouteTable
from app.api.routes import batch, docs, embed, explain, health, metrics, model, page, predict


def include_routers(app: FastAPI, table: RouteTable, *, require_keys: bool) -> None:
    """Adds every route; with ``require_keys``, predictions and the model need an API key."""
    guards = [Depends(require_key)] if require_keys else []
    for router in (predict.router, batch.router, embed.router, explain.router, model.router):
        app.include_router(router, dependencies=guards)
        table.add(router.routes, slash_at_end=router is not model.router)
    for router in (health.router, metrics.router):
        app.include_router(router)
        table.add(router.routes, is_probe=True)
    for router in (page.router, docs.router):
        app.include_router(router)
        table.add(router.routes)
    app.mount("/static", page.static_files, name="static")
