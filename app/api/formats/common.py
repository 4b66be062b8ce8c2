"""Shared by the adapters: reading images and classifying several."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ValidationError

from app.api.body import BodyReader, admitted_body
from app.api.context import AppContext
from app.api.problems import InvalidRequest
from app.api.routes.predict import PredictQuery
from app.serving.results import Classification, ClassifyOptions
from app.serving.service import ClassificationService

Json = dict[str, Any]  # Any: a JSON object
Model = TypeVar("Model", bound=BaseModel)

VERSION = "1"
"""The only version of the model, in paths that have one."""


async def classify_images(
    request: Request,
    context: AppContext,
    service: ClassificationService,
    read: Callable[[BodyReader], Awaitable[tuple[Sequence[bytes], ClassifyOptions]]],
) -> list[Classification]:
    """The predictions of each image that ``read`` finds in the body, in order; the first error of one is raised.

    There are slots for all images or for none. Raises ``InvalidRequest`` for more than ``max_images_per_request``.
    """

    def count(body: tuple[Sequence[bytes], ClassifyOptions]) -> int:
        if not 1 <= len(body[0]) <= context.max_images_per_request:
            raise InvalidRequest(f"There are {len(body[0])} images; send 1 to {context.max_images_per_request}.")
        return len(body[0])

    async with admitted_body(request, service, read, count) as (images, options):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(service.classify(image, options)) for image in images]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]


def parse(model: type[Model], value: object) -> Model:
    """``value`` as a pydantic model. Raises ``InvalidRequest``, which names each invalid field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise InvalidRequest(details) from error


def parse_options(parameters: object, **options: Any) -> ClassifyOptions:  # Any: fields of ClassifyOptions
    """The options in a JSON object with ``top_k`` and ``min_probability``. Raises ``InvalidRequest``."""
    query = parse(PredictQuery, {} if parameters is None else parameters)
    return ClassifyOptions(query.top_k, query.min_probability, **options)


def check_name(name: str, service: ClassificationService, version: str = VERSION) -> None:
    """Raises a 404 if the model is not called ``name``, or has no such version."""
    if name != service.engine.model.name:
        raise HTTPException(404, f"There is no model {name!r}.")
    if version != VERSION:
        raise HTTPException(404, f"There is no version {version!r}; the version is {VERSION!r}.")
