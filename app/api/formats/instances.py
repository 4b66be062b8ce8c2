"""The bodies of TensorFlow Serving, KServe V1 and Vertex AI: images as instances, or as columns of inputs.

Contract: TensorFlow Serving, "RESTful API", Predict API: ``{"instances": [{"image_bytes": {"b64": "…"}, "key": "1"}]}``
gets ``{"predictions": […]}``, one per instance; ``{"inputs": {"image_bytes": […], "key": […]}}`` gets
``{"outputs": …}``, one list per column. Fields besides the image, such as ``key``, are returned with its result.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import Request, Response

from app.api.body import BodyReader
from app.api.context import context_of
from app.api.decoding import decode_base64, parse_json
from app.api.formats.common import Json, classify_images, parse_options
from app.api.problems import InvalidRequest
from app.api.routes.predict import prediction_rows
from app.serving.results import ClassifyOptions
from app.serving.service import ClassificationService

_RESULT = "predictions"
_MAX_FIELDS = 100  # of an instance, or columns; the time for both grows faster than their number


@dataclass(frozen=True)
class Instances:
    """The images of one body, and for each the other fields of its instance."""

    images: list[bytes]
    fields: list[Json]
    columnar: bool
    parameters: object

    def content(self, results: Sequence[object]) -> Json:
        """The response with one result per image, in the form of the request."""
        if not self.columnar:
            pairs = zip(self.fields, results, strict=True)
            return {_RESULT: [{**fields, _RESULT: result} if fields else result for fields, result in pairs]}
        columns = {name: [fields[name] for fields in self.fields] for name in self.fields[0]}
        return {"outputs": {**columns, _RESULT: results} if columns else results}


async def classify_instances(request: Request, service: ClassificationService) -> Response:
    """One list of classes per instance; ``parameters`` may have ``top_k`` and ``min_probability``."""

    async def read(reader: BodyReader) -> tuple[list[bytes], ClassifyOptions, Instances]:
        found = await read_instances(reader, context_of(request).max_images_per_request)
        return found.images, parse_options(found.parameters), found

    results, found = await classify_images(request, service, read)
    return json_response(found.content([prediction_rows(result) for result in results]))


async def read_instances(reader: BodyReader, max_images: int) -> Instances:
    """The instances or inputs of a body, one to ``max_images``.

    Raises ``InvalidRequest`` and what ``BodyReader.body`` raises.
    """
    document = parse_json(await reader.body())
    if not isinstance(document, dict) or ("instances" in document) == ("inputs" in document):
        raise InvalidRequest(
            'The body must be {"instances": [{"b64": "…"}, …]} or {"inputs": {"NAME": [{"b64": "…"}, …]}}.'
        )
    columnar = "inputs" in document
    instances = _rows(document["inputs"]) if columnar else document["instances"]
    if not isinstance(instances, list):
        raise InvalidRequest(f"The instances must be a list, found {type(instances).__name__}.")
    if not 1 <= len(instances) <= max_images:
        raise InvalidRequest(f"There are {len(instances)} instances; send 1 to {max_images}.")
    split = [_split(instance) for instance in instances]
    images = [await decode_base64(text) for text, _ in split]
    return Instances(images, [fields for _, fields in split], columnar, document.get("parameters"))


def json_response(content: Mapping[str, object]) -> Response:
    """JSON in ASCII, as the fields of a client may hold lone surrogates."""
    return Response(json.dumps(content, allow_nan=False), media_type="application/json")


def _rows(inputs: object) -> list[object]:
    """The instances of ``inputs``: a list of images, or an object of columns. Raises ``InvalidRequest``."""
    if isinstance(inputs, list):
        return inputs
    if not isinstance(inputs, dict) or set(inputs) == {"b64"}:
        return [inputs]
    _check_fields(inputs)
    columns = [values if isinstance(values, list) else [values] for values in inputs.values()]
    sizes = {len(column) for column in columns}
    if len(sizes) > 1:
        raise InvalidRequest(f"The columns of inputs must have the same length, found {sorted(sizes)}.")
    return [dict(zip(inputs, values, strict=True)) for values in zip(*columns, strict=True)]


def _check_fields(instance: Json) -> None:
    if len(instance) > _MAX_FIELDS:
        raise InvalidRequest(f"There are {len(instance)} fields; an instance may have {_MAX_FIELDS}.")


def _split(instance: object) -> tuple[object, Json]:
    """The base64 string of an instance, and its other fields. Raises ``InvalidRequest``."""
    if not isinstance(instance, dict):
        return instance, {}
    _check_fields(instance)
    images = [name for name, value in instance.items() if name == "b64" or isinstance(value, dict)]
    images = images or [
        name for name, value in instance.items() if isinstance(value, str) and (name != "key" or len(instance) == 1)
    ]
    fields = {name: value for name, value in instance.items() if name not in images}
    if len(images) != 1 or _RESULT in fields:
        found = ", ".join(instance)[:100]
        raise InvalidRequest(f'An instance must have one image as {{"b64": "…"}} and may have a key; found {found!r}.')
    for name, value in fields.items():
        if not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
            raise InvalidRequest(f"The field {name[:40]!r} of an instance must be text, a number or null.")
    image = instance[images[0]]
    while isinstance(image, dict) and len(image) == 1:  # {"image_bytes": {"b64": …}}
        [image] = image.values()
    return image, fields
