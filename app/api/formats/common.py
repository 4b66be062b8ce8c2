"""What the adapters share: reading images, classifying several, and errors as ``{"error": …}``."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from app.api.dependencies import AppContext
from app.api.encodings import decode_base64
from app.api.intake import receive
from app.api.problems import InvalidRequest, problem_response, problem_type
from app.api.routes.predict import PredictQuery
from app.api.uploads import BodyReader
from app.serving.results import Classification, ClassifyOptions
from app.serving.service import ClassificationService

Json = dict[str, Any]  # Any: a JSON object
Model = TypeVar("Model", bound=BaseModel)


class ErrorRoute(APIRoute):
    """A route whose errors have the body ``{"error": message}``, as the clients of these protocols expect."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:  # Any: the base class's type
        """The function that handles a request."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except HTTPException as error:
                return JSONResponse({"error": error.detail}, error.status_code)
            except RequestValidationError as error:
                return JSONResponse({"error": str(error.errors())}, 422)
            except Exception as error:
                row = problem_type(error)
                if row is None:
                    raise
                request.state.problem = row.type
                headers = dict(problem_response(error).headers)
                kept = {name: value for name, value in headers.items() if name in ("retry-after", "www-authenticate")}
                return JSONResponse({"error": str(error)}, row.status, kept)

        return handle


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

    async with receive(request, context, service, read, count) as (images, options):
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


async def decode_instances(document: object) -> list[bytes]:
    """The images in ``{"instances": [{"b64": …} | {NAME: {"b64": …}} | "…"]}``. Raises ``InvalidRequest``."""
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list):
        raise InvalidRequest('The body must be {"instances": [{"b64": "…"}, …]}.')
    return [await decode_base64(_base64_of(instance)) for instance in instances]


def _base64_of(instance: object) -> object:
    while isinstance(instance, dict):  # TensorFlow Serving's form, {"image_bytes": {"b64": …}}, is deeper by one
        if len(instance) != 1:
            raise InvalidRequest('An instance must be {"b64": "…"}.')
        [instance] = instance.values()
    return instance
