"""The Open Inference Protocol (V2), REST, with the binary tensor data extension.

Contract: kserve/open-inference-protocol, ``specification/protocol/inference_rest.md``, version 2, and Triton's
``docs/protocol/extension_binary_data.md``. The one input is ``image``: encoded images as BYTES ``(N,)`` or ``(N, 1)``
(base64 in JSON), or the bytes of one as UINT8 ``(size,)`` or ``(1, size)``. The outputs are ``label`` BYTES,
``class_id`` INT64 and ``probability`` FP32, each ``(N, top_k)``; and on request ``score`` FP32, the logits of the same
classes, and ``logits`` FP32 ``(N, num_labels)``, those of all classes in the order of class_id.
"""

import json
import math
from importlib.metadata import version as package_version
from typing import Annotated, Any, TypeVar

import numpy as np
import numpy.typing as npt
from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, BeforeValidator, Field

from app.api.body import BodyReader
from app.api.context import context_of
from app.api.decoding import decode_base64, parse_json
from app.api.dependencies import ServiceDep
from app.api.formats.common import VERSION, Json, check_name, classify_images, parse, parse_options
from app.api.openapi import JSON_BODY
from app.api.problems import InvalidRequest
from app.serving.results import Classification, ClassifyOptions

health = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])
router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

_BODY = {"requestBody": JSON_BODY}
_MAX_DIGITS = 20  # of a number of bytes
_HEADER = "Inference-Header-Content-Length"
_OUTPUTS = {"label": "BYTES", "class_id": "INT64", "probability": "FP32", "score": "FP32", "logits": "FP32"}
_DEFAULT_OUTPUTS = ("label", "class_id", "probability")

Tensor = npt.NDArray[Any]  # Any: int64, float32 or object, for strings
Item = TypeVar("Item")
Few = Annotated[list[Item], Field(max_length=16, fail_fast=True)]
"""More are never valid, and an error for each of hundreds of thousands would take seconds."""


Parameters = Annotated[Json, BeforeValidator(lambda value: {} if value is None else value)]
"""null is as good as none: clients of typed languages send it for fields that are not set."""


class InputTensor(BaseModel):
    """One input; its data is in ``data`` or after the JSON header."""

    name: str
    shape: Few[int]
    datatype: str
    parameters: Parameters = Field(default_factory=dict)
    data: list[Any] | None = None  # Any: checked by datatype


class RequestedOutput(BaseModel):
    """One output that the client asks for."""

    name: str
    parameters: Parameters = Field(default_factory=dict)


class InferRequest(BaseModel):
    """The JSON of a request."""

    id: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    inputs: Few[InputTensor]
    outputs: Few[RequestedOutput] | None = None

    def requested(self) -> dict[str, bool]:
        """The names of the outputs, and whether each is binary. Raises ``InvalidRequest``."""
        binary = self.parameters.get("binary_data_output", False) is True
        if self.outputs is None:
            return dict.fromkeys(_DEFAULT_OUTPUTS, binary)
        for output in self.outputs:
            if output.name not in _OUTPUTS:
                raise InvalidRequest(f"There is no output {output.name!r}; the outputs are {', '.join(_OUTPUTS)}.")
            if "classification" in output.parameters:
                raise InvalidRequest("classification is not available; the parameter top_k says how many classes.")
        return {output.name: output.parameters.get("binary_data", binary) is True for output in self.outputs}


@health.get("", summary="Server metadata")
@health.get("/", include_in_schema=False)  # as in open_inference_rest.yaml
async def server() -> Json:
    """Name, version and extensions of the server."""
    version = package_version("convnext-serve")
    return {"name": "convnext-serve", "version": version, "extensions": ["binary_tensor_data"]}


@health.get("/health/live", summary="Liveness")
async def live(service: ServiceDep) -> Json:
    """503 only if the process must be restarted."""
    if service.status == "failed":
        raise HTTPException(503, "The service has failed.")
    return {"live": True}


@health.get("/health/ready", summary="Readiness")
async def ready(service: ServiceDep) -> Json:
    """503 unless the service accepts predictions."""
    if service.status != "ready":
        raise HTTPException(503, f"The service is {service.status}.")
    return {"ready": True}


@router.get("/models/{name}", summary="Model metadata")
@router.get("/models/{name}/versions/{version}", summary="Model metadata")
async def model(name: str, service: ServiceDep, version: str = VERSION) -> Json:
    """The tensors of the model."""
    check_name(name, service, version)
    shapes = {"logits": [-1, len(service.engine.model.labels)]}
    outputs = [
        {"name": output, "datatype": kind, "shape": shapes.get(output, [-1, -1])} for output, kind in _OUTPUTS.items()
    ]
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    return {"name": name, "versions": [VERSION], "platform": "convnext-serve", "inputs": inputs, "outputs": outputs}


@health.get("/models/{name}/ready", summary="Readiness of a model")
@health.get("/models/{name}/versions/{version}/ready", summary="Readiness of a model")
async def model_ready(name: str, service: ServiceDep, version: str = VERSION) -> Json:
    """503 unless the model accepts predictions."""
    check_name(name, service, version)
    return {"name": name, **await ready(service)}


@router.post("/models/{name}/infer", summary="Classify images", openapi_extra=_BODY)
@router.post("/models/{name}/versions/{version}/infer", summary="Classify images", openapi_extra=_BODY)
async def infer(name: str, request: Request, service: ServiceDep, version: str = VERSION) -> Response:
    """The most probable classes of each image; the parameter ``top_k`` says how many."""
    check_name(name, service, version)

    async def read(reader: BodyReader) -> tuple[list[bytes], ClassifyOptions, InferRequest]:
        asked, binary = _split(await reader.body(), request.headers.get(_HEADER))
        if "min_probability" in asked.parameters:
            raise InvalidRequest("min_probability is not available here, as tensors need rows of equal length.")
        asked.requested()
        images = await _images(asked, binary, context_of(request).max_images_per_request)
        return images, parse_options({"top_k": asked.parameters.get("top_k")}), asked

    results, asked = await classify_images(request, service, read)
    return _response(asked, name, _tensors(results))


def _split(body: bytes, header_size: str | None) -> tuple[InferRequest, bytes]:
    """The JSON of a request, and the binary data after it. Raises ``InvalidRequest``."""
    size = len(body)
    if header_size is not None:
        if not header_size.isdecimal() or len(header_size) > _MAX_DIGITS or int(header_size) > size:
            raise InvalidRequest(f"{_HEADER} must be a size within the body, not {header_size[:_MAX_DIGITS]!r}.")
        size = int(header_size)
    return parse(InferRequest, parse_json(body[:size])), body[size:]


async def _images(asked: InferRequest, binary: bytes, max_images: int) -> list[bytes]:
    """The encoded images of a request. Raises ``InvalidRequest``."""
    if len(asked.inputs) != 1 or asked.inputs[0].name != "image":
        raise InvalidRequest("There must be exactly one input, 'image'.")
    tensor = asked.inputs[0]
    if tensor.datatype not in ("BYTES", "UINT8"):
        raise InvalidRequest(
            f"The datatype {tensor.datatype!r} is not supported; send encoded images as BYTES or UINT8."
        )
    if not tensor.shape or min(tensor.shape) < 1 or len(tensor.shape) > 2:
        raise InvalidRequest(f"The shape {tensor.shape} is not (N,), (N, 1), (size,) or (1, size).")
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES" and count > max_images:
        raise InvalidRequest(f"There are {count} images; send 1 to {max_images}.")
    if "binary_data_size" in tensor.parameters:
        if tensor.parameters["binary_data_size"] != len(binary):
            raise InvalidRequest(f"binary_data_size is not the {len(binary)} bytes that follow the JSON.")
        images = _split_bytes(binary, count) if tensor.datatype == "BYTES" else [binary]
    elif tensor.data is None:
        raise InvalidRequest("The input has neither data nor binary_data_size.")
    else:
        images = await _json_images(tensor.datatype, tensor.data, count)
    found = len(images) if tensor.datatype == "BYTES" else len(images[0])
    if found != count:
        raise InvalidRequest(f"The shape {tensor.shape} does not fit the {found} elements of the data.")
    if tensor.datatype == "UINT8" and len(tensor.shape) == 2 and tensor.shape[0] != 1:
        raise InvalidRequest("A UINT8 tensor holds one image; send several as BYTES.")
    return images


async def _json_images(datatype: str, data: list[Any], count: int) -> list[bytes]:  # Any: JSON
    flat = [value for row in data for value in (row if isinstance(row, list) else [row])]
    if len(flat) != count:
        raise InvalidRequest(f"The shape is of {count} elements, but the data has {len(flat)}.")
    if datatype == "BYTES":
        return [await decode_base64(value) for value in flat]
    try:
        return [bytes(flat)]
    except (TypeError, ValueError) as error:
        raise InvalidRequest("UINT8 data must be integers from 0 to 255.") from error


def _split_bytes(binary: bytes, count: int) -> list[bytes]:
    """The ``count`` elements of a BYTES tensor: each is its size as four little-endian bytes, and its content."""
    elements: list[bytes] = []
    start = 0
    while start < len(binary):
        if len(elements) == count:  # empty elements could be millions
            raise InvalidRequest(f"The BYTES tensor has more than {count} elements.")
        end = start + 4 + int.from_bytes(binary[start : start + 4], "little")
        if end > len(binary):
            raise InvalidRequest("An element of the BYTES tensor ends after the data.")
        elements.append(binary[start + 4 : end])
        start = end
    return elements


def _tensors(results: list[Classification]) -> dict[str, Tensor]:
    rows = [result.predictions for result in results]
    return {
        "label": np.array([[item.label for item in row] for row in rows], object),  # (N, top_k)
        "class_id": np.array([[item.class_id for item in row] for row in rows], np.int64),
        "probability": np.array([[item.probability for item in row] for row in rows], np.float32),
        "score": np.array([[result.logits[item.class_id] for item in result.predictions] for result in results]),
        "logits": np.array([result.logits for result in results]),  # (N, num_labels)
    }


def _response(asked: InferRequest, name: str, tensors: dict[str, Tensor]) -> Response:
    outputs, blobs = [], []
    for output, binary in asked.requested().items():
        tensor = tensors[output]
        entry: Json = {"name": output, "datatype": _OUTPUTS[output], "shape": list(tensor.shape)}
        if binary:
            blobs.append(_binary(tensor))
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.flatten().tolist()
        outputs.append(entry)
    content = {"model_name": name, "model_version": VERSION, "outputs": outputs}
    if asked.id is not None:
        content["id"] = asked.id
    if not blobs:
        return Response(json.dumps(content), media_type="application/json")  # ASCII: the id may hold a lone surrogate
    header = json.dumps(content).encode()
    body = header + b"".join(blobs)
    return Response(body, media_type="application/octet-stream", headers={_HEADER: str(len(header))})


def _binary(tensor: Tensor) -> bytes:
    if tensor.dtype != object:
        return tensor.astype(tensor.dtype.newbyteorder("<")).tobytes()
    encoded = [label.encode() for label in tensor.flatten()]
    return b"".join(len(label).to_bytes(4, "little") + label for label in encoded)
