"""Adapters for the request formats of other servers and platforms, over the same service; each is off by default."""

from collections.abc import Collection
from typing import Any

from fastapi import APIRouter, Depends, FastAPI

from app.api.dependencies import require_key
from app.api.formats import huggingface, kserve_v1, open_inference, sagemaker, vertex
from app.api.route_table import RouteTable
from app.api.schemas import PlainError
from app.platforms import RequestFormat

# Any: FastAPI's own type of OpenAPI responses.
_PLAIN_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": PlainError, "description": "An error."}}


def include_formats(
    app: FastAPI,
    table: RouteTable,
    formats: Collection[RequestFormat],
    vertex_paths: tuple[str, str],
    *,
    require_keys: bool,
) -> None:
    """Adds the routes of ``formats``; with ``require_keys``, all but the health checks need an API key.

    ``vertex_paths`` are those of the health check and of predictions. The formats' routes precede those of the same
    path, as Vertex AI may be configured to call /predict. Errors are ``{"error": message}``, as the clients of these
    formats expect, except on SageMaker.
    """
    routers: dict[RequestFormat, tuple[APIRouter, APIRouter]] = {
        "open_inference": (open_inference.health, open_inference.router),
        "kserve": (kserve_v1.health, kserve_v1.router),
        "sagemaker": (sagemaker.health, sagemaker.router),
        "vertex": vertex.build_routers(*vertex_paths),
        "huggingface": (APIRouter(), huggingface.router),
    }
    guards = [Depends(require_key)] if require_keys else []
    for name in sorted(formats):
        health, predictions = routers[name]
        plain_errors = name != "sagemaker"
        responses = _PLAIN_ERRORS if plain_errors else None
        app.include_router(health, responses=responses)
        app.include_router(predictions, dependencies=guards, responses=responses)
        table.add(predictions.routes, plain_errors=plain_errors)  # before /v1/models/{name}, which includes them
        table.add(health.routes, is_probe=True, plain_errors=plain_errors)
    folders = {path.rpartition("/")[0] for path in vertex_paths} - {""}
    prefixes = {"open_inference": {"/v2"}, "kserve": {"/v1"}, "vertex": folders}
    for name in formats:
        for prefix in prefixes.get(name, ()):
            table.add_prefix(prefix)
