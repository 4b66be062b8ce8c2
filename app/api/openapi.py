"""Additions to the OpenAPI schema that FastAPI derives from the routes."""

import re
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.api.context import AppContext

BINARY = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {**BINARY, "description": "The image."}},
}
IMAGE_BODY = {
    "required": True,
    "description": 'The image as a form file or as the body itself. JSON is accepted, too: `{"image": "<base64>"}`.',
    "content": {"multipart/form-data": {"schema": _FORM}, "image/*": {"schema": BINARY}},
}
"""The request body of a route that takes one image. With JSON in it, generated clients would send all forms as JSON."""

JSON_BODY = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
"""The request body of a route whose format is described elsewhere."""


def operation_id(route: APIRoute) -> str:
    """The name of an operation, from which generated clients make functions: its path, as in ``predict_batch``."""
    return re.sub(r"\W+", "_", route.path_format).strip("_") or route.name


def describe_labels(app: FastAPI, context: AppContext) -> None:
    """Makes the number of labels the maximum of ``top_k`` and ``class_id``, once the model has been loaded."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:  # Any: as in FastAPI
        schema = generate()
        if context.service is not None:
            labels = len(context.service.engine.model.labels)
            _set_maxima(schema, {"top_k": labels, "class_id": labels - 1})
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it


def _set_maxima(schema: dict[str, Any], maxima: dict[str, int]) -> None:  # Any: JSON
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    for parameter in (parameter for operation in operations for parameter in operation.get("parameters", ())):
        if parameter["name"] in maxima:
            for option in parameter["schema"]["anyOf"]:
                if option["type"] == "integer":
                    option["maximum"] = maxima[parameter["name"]]
