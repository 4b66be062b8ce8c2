"""Shared by the adapters: reading images and classifying several."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from app.api.body import BodyReader, admitted_body
from app.api.problems import InvalidRequest
from app.api.routes.predict import PredictQuery
from app.serving.results import Classification, ClassifyOptions
from app.serving.service import ClassificationService

Json = dict[str, Any]  # Any: a JSON object
Asked = TypeVar("Asked")
Model = TypeVar("Model", bound=BaseModel)

VERSION = "1"
"""The only version of the model, in paths that have one."""


async def classify_images(
    request: Request,
    service: ClassificationService,
    read: Callable[[BodyReader], Awaitable[tuple[Sequence[bytes], ClassifyOptions, Asked]]],
) -> tuple[list[Classification], Asked]:
    """The predictions of each image that ``read`` finds in the body, in order, and what else that returns.

    There are slots for all images or for none. The first error of an image is raised.
    """
    async with admitted_body(request, service, read, lambda body: len(body[0])) as (images, options, asked):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(service.classify(image, options)) for image in images]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks], asked


def parse(model: type[Model], value: object) -> Model:
    """``value`` as a pydantic model. Raises ``InvalidRequest``, which names each invalid field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(details) from error


def parse_options(parameters: object) -> ClassifyOptions:
    """The options in a JSON object with ``top_k`` and ``min_probability``. Raises ``InvalidRequest``."""
    return parse(PredictQuery, {} if parameters is None else parameters).options()


def check_name(name: str, service: ClassificationService, version: str = VERSION) -> None:
    """Raises a 404 if the model is not called ``name``, or has no such version."""
    if name != service.engine.model.name:
        raise HTTPException(404, f"There is no model {name!r}.")
    if version != VERSION:
        raise HTTPException(404, f"There is no version {version!r}; the version is {VERSION!r}.")
