"""KServe's V1 protocol, with ``:predict`` and ``:explain``.

Contract: KServe documentation, "V1 Inference Protocol" (version 0.15), which is TensorFlow Serving's REST API with an
added ``:explain``. Images are base64 strings: ``{"instances": [{"b64": "…"}]}``.
"""

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import ConfigDict

from app.api.body import BodyReader, admitted_body
from app.api.dependencies import ServiceDep
from app.api.formats.common import VERSION, Json, check_name, parse
from app.api.formats.instances import Instances, classify_instances, json_response, read_instances
from app.api.openapi import JSON_BODY
from app.api.routes.explain import explanation_content
from app.api.schemas import StrictQuery

health = APIRouter(prefix="/v1", tags=["KServe V1"])
router = APIRouter(prefix="/v1", tags=["KServe V1"])

_BODY = {"requestBody": JSON_BODY}


class ExplainParameters(StrictQuery):
    """The parameters of an explanation."""

    model_config = ConfigDict(strict=True)

    class_id: int | None = None


@router.get("/models", summary="Names of the models")
async def models(service: ServiceDep) -> Json:
    """The one model that is served."""
    return {"models": [service.engine.model.name]}


@health.get("/models/{name}", summary="Readiness of a model")
@health.get("/models/{name}/versions/{version}", summary="Readiness of a model")
async def ready(name: str, service: ServiceDep, version: str = VERSION) -> Json:
    """503 unless the model accepts predictions."""
    check_name(name, service, version)
    if service.status != "ready":
        raise HTTPException(503, f"The service is {service.status}.")
    return {"name": name, "ready": True}


@router.post("/models/{name}:predict", summary="Classify images", openapi_extra=_BODY)
@router.post("/models/{name}/versions/{version}:predict", summary="Classify images", openapi_extra=_BODY)
async def predict(name: str, request: Request, service: ServiceDep, version: str = VERSION) -> Response:
    """One list of classes per instance; ``parameters`` may have ``top_k`` and ``min_probability``."""
    check_name(name, service, version)
    return await classify_instances(request, service)


@router.post("/models/{name}:explain", summary="Explain one image", openapi_extra=_BODY)
@router.post("/models/{name}/versions/{version}:explain", summary="Explain one image", openapi_extra=_BODY)
async def explain(name: str, request: Request, service: ServiceDep, version: str = VERSION) -> Response:
    """The class activation map of one instance for its most probable class, or for ``parameters.class_id``."""
    check_name(name, service, version)

    async def read(reader: BodyReader) -> tuple[Instances, int | None]:
        found = await read_instances(reader, 1)
        return found, parse(ExplainParameters, {} if found.parameters is None else found.parameters).class_id

    async with admitted_body(request, service, read) as (found, class_id):
        result = await service.explain(found.images[0], class_id)
    return json_response({"explanations": [found.fields[0] | explanation_content(result)]})
