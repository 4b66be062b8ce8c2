"""GET /model and /model/labels: the model that is served."""

from fastapi import APIRouter

from app.api.dependencies import ServiceDep
from app.api.problems import Unauthorized, openapi_responses
from app.api.schemas import ModelInfo, ModelLabels
from app.serving.errors import Unavailable

router = APIRouter(tags=["model"])

_PROBLEMS = openapi_responses(Unauthorized, Unavailable)


@router.get("/model", summary="The model", responses=_PROBLEMS)
async def info(service: ServiceDep) -> ModelInfo:
    """The name, size, licence and hash of the network, and the device, precision and mode chosen at start-up."""
    engine = service.engine
    return ModelInfo(
        name=engine.model.name,
        family=engine.model.family,
        num_labels=len(engine.model.labels),
        input_size=engine.input_size,
        parameters=engine.parameters,
        device=str(engine.device),
        precision=engine.precision,
        mode=engine.mode,
        max_batch_size=engine.max_batch_size,
        licence=engine.model.licence,
        sha256=engine.model.sha256,
    )


@router.get("/model/labels", summary="The class names", responses=_PROBLEMS)
async def labels(service: ServiceDep) -> ModelLabels:
    """Every class name, in the order of class_id."""
    return ModelLabels(labels=list(service.engine.model.labels))
