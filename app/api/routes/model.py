"""GET /model and /model/labels: the model that is served."""

import hashlib
from functools import lru_cache

from fastapi import APIRouter, Request, Response

from app.api.dependencies import ServiceDep
from app.api.problems import Unauthorized, openapi_responses
from app.api.schemas import ModelInfo, ModelLabels
from app.serving.errors import Unavailable

router = APIRouter(tags=["model"])

_PROBLEMS = openapi_responses(Unauthorized, Unavailable)
_LABELS = _PROBLEMS | {304: {"description": "The names have not changed since the ETag in If-None-Match."}}


@router.get("/model", summary="The model", responses=_PROBLEMS)
async def info(service: ServiceDep) -> ModelInfo:
    """The name, size, licence and hash of the network, and the device, precision and mode chosen at start-up."""
    engine = service.engine
    return ModelInfo(
        name=engine.model.name,
        family=engine.model.family,
        activation=engine.model.activation,
        num_labels=len(engine.model.labels),
        input_size=engine.input_size,
        parameters=engine.parameters,
        device=str(engine.device),
        precision=engine.precision,
        precision_reason=engine.precision_reason,
        mode=engine.mode,
        max_batch_size=engine.max_batch_size,
        licence=engine.model.licence,
        sha256=engine.model.sha256,
    )


@router.get("/model/labels", summary="The class names", response_model=ModelLabels, responses=_LABELS)
async def labels(request: Request, service: ServiceDep) -> Response:
    """Every class name, in the order of class_id. The ETag changes with the names."""
    body, etag = _render(tuple(service.engine.model.labels))
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "")[:1000].split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@lru_cache(maxsize=1)
def _render(labels: tuple[str, ...]) -> tuple[bytes, str]:
    """The body and its ETag, computed once."""
    body = ModelLabels(labels=list(labels)).model_dump_json().encode()
    return body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'
