"""KServe's V1 protocol, with ``:predict`` and ``:explain``.

Contract: KServe documentation, "V1 Inference Protocol" (version 0.15), which is TensorFlow Serving's REST API with an
added ``:explain``. Images are base64 strings: ``{"instances": [{"b64": "…"}]}``.
"""

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, ConfigDict

from app.api.body import BodyReader, admitted_body
from app.api.decoding import parse_json
from app.api.dependencies import ContextDep, ServiceDep
from app.api.formats.common import Json, classify_images, decode_instances, parse, parse_options
from app.api.problems import InvalidRequest
from app.api.routes.explain import explanation_content
from app.api.routes.predict import prediction_rows
from app.serving.results import ClassifyOptions
from app.serving.service import ClassificationService

health = APIRouter(prefix="/v1", tags=["KServe V1"])
router = APIRouter(prefix="/v1", tags=["KServe V1"])


class ExplainParameters(BaseModel):
    """The parameters of an explanation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    class_id: int | None = None


@router.get("/models", summary="Names of the models")
async def models(service: ServiceDep) -> Json:
    """The one model that is served."""
    return {"models": [service.engine.model.name]}


@health.get("/models/{name}", summary="Readiness of a model")
async def ready(name: str, service: ServiceDep) -> Json:
    """503 unless the model accepts predictions."""
    check_name(name, service)
    if service.status != "ready":
        raise HTTPException(503, f"The service is {service.status}.")
    return {"name": name, "ready": True}


@router.post("/models/{name}:predict", summary="Classify images")
async def predict(name: str, request: Request, context: ContextDep, service: ServiceDep) -> Json:
    """One list of classes per instance; ``parameters`` may have ``top_k`` and ``min_probability``."""
    check_name(name, service)
    results = await classify_images(request, context, service, read_instances)
    return {"predictions": [prediction_rows(result) for result in results]}


@router.post("/models/{name}:explain", summary="Explain one image")
async def explain(name: str, request: Request, service: ServiceDep) -> Json:
    """The class activation map of one instance for its most probable class, or for ``parameters.class_id``."""
    check_name(name, service)

    async def read(reader: BodyReader) -> tuple[list[bytes], int | None]:
        document = parse_json(await reader.body())
        images = await decode_instances(document)
        if len(images) != 1:
            raise InvalidRequest(f"There are {len(images)} instances; send one to explain.")
        return images, _class_id(document.get("parameters"))

    async with admitted_body(request, service, read) as ([image], class_id):
        result = await service.explain(image, class_id)
    return {"explanations": [explanation_content(result)]}


async def read_instances(reader: BodyReader) -> tuple[list[bytes], ClassifyOptions]:
    """The images and the options of a body with ``instances`` and ``parameters``. Raises ``InvalidRequest``."""
    document = parse_json(await reader.body())
    return await decode_instances(document), parse_options(document.get("parameters"))


def check_name(name: str, service: ClassificationService) -> None:
    """Raises a 404 if the model is not called ``name``."""
    if name != service.engine.model.name:
        raise HTTPException(404, f"There is no model {name!r}.")


def _class_id(parameters: object) -> int | None:
    if parameters is None:
        return None
    return parse(ExplainParameters, parameters).class_id
