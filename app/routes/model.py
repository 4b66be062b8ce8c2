"""GET /model and /model/labels: what is served."""

from typing import Any

from fastapi import APIRouter

from app.dependencies import ClassifierDep
from app.errors import MEDIA_TYPE, Unauthorized, Unavailable
from app.schemas import ModelInfo, ModelLabels, Problem

router = APIRouter(tags=["model"])

_REFUSALS: dict[int | str, dict[str, Any]] = {
    refusal.status: {"description": refusal.title, "content": {MEDIA_TYPE: {"schema": Problem.model_json_schema()}}}
    for refusal in (Unauthorized, Unavailable)
}


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
