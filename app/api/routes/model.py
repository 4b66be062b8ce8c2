"""GET /model and /model/labels: what is served."""

from fastapi import APIRouter

from app.api.dependencies import ClassifierDep
from app.api.schemas import ModelInfo, ModelLabels
from app.serving.errors import Unauthorized, Unavailable, describe

router = APIRouter(tags=["model"])

_REFUSALS = describe(Unauthorized, Unavailable)


@router.get("/model", summary="What is served", responses=_REFUSALS)
async def info(classifier: ClassifierDep) -> ModelInfo:
    """The network's name, size, licence and hash, and the device, precision and mode chosen at start."""
    engine = classifier.engine
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


@router.get("/model/labels", summary="The class names", responses=_REFUSALS)
async def labels(classifier: ClassifierDep) -> ModelLabels:
    """Every class name, in the order of class_id."""
    return ModelLabels(labels=list(classifier.engine.model.labels))
