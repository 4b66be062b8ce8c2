"""Routes: one file per resource."""

from fastapi import APIRouter, Depends, FastAPI
from fastapi.params import Depends as Dependency
from fastapi.routing import APIRoute

from app.api.dependencies import require_key
from app.api.routes import batch, docs, embed, explain, health, metrics, model, page, predict


def include_routers(app: FastAPI, *, require_keys: bool) -> None:
    """Adds every route; with ``require_keys``, predictions and the model need an API key."""
    guards = [Depends(require_key)] if require_keys else []
    for router in (predict.router, batch.router, embed.router, explain.router):
        _add_routes(app, router, guards)
    app.include_router(model.router, dependencies=guards)
    for router in (health.router, metrics.router, page.router, docs.router):
        app.include_router(router)
    app.mount("/static", page.static_files, name="static")


def _add_routes(app: FastAPI, router: APIRouter, dependencies: list[Dependency]) -> None:
    """Adds routes to the application itself: FastAPI searches an included router twice for each request."""
    for route in router.routes:
        assert isinstance(route, APIRoute)  # noqa: S101 - the routers have no others
        app.router.add_api_route(
            route.path,
            route.endpoint,
            methods=route.methods,
            tags=route.tags,
            summary=route.summary,
            response_model=route.response_model,
            responses=route.responses,
            openapi_extra=route.openapi_extra,
            include_in_schema=route.include_in_schema,
            dependencies=dependencies,
            route_class_override=type(route),
        )
