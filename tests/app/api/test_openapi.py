"""/openapi.json against the service: every route, field, parameter and error is described as it is."""

from typing import Any

import jsonschema
import pytest

from app.api.problems import PREDICTION_ERRORS, problem_type
from app.serving.errors import Overloaded
from tests.app.api.asgi import PNG, context_of
from tests.app.types import Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio

Schema = dict[str, Any]  # Any: JSON
ROUTES = {
    ("post", "/predict"): {"200", "400", "401", "413", "415", "422", "503", "504"},
    ("post", "/predict/batch"): {"200", "400", "401", "413", "415", "422", "503", "504"},
    ("post", "/embed"): {"200", "400", "401", "413", "415", "422", "503", "504"},
    ("post", "/explain"): {"200", "400", "401", "406", "413", "415", "422", "503", "504"},
    ("get", "/health"): {"200", "503"},
    ("get", "/health/live"): {"200", "503"},
    ("get", "/health/ready"): {"200", "503"},
    ("get", "/model"): {"200", "401", "503"},
    ("get", "/model/labels"): {"200", "304", "401", "503"},
    ("get", "/metrics"): {"200"},
}


@pytest.fixture
def described(make_app: MakeApp) -> Schema:
    return make_app().openapi()


def validate(value: object, schema: Schema, described: Schema) -> None:
    """Raises an error if a JSON value does not conform to ``schema``, or has other fields."""
    schemas = {
        name: text | {"additionalProperties": False} for name, text in described["components"]["schemas"].items()
    }
    jsonschema.validate(value, schema | {"components": {"schemas": schemas}})


def test_describes_every_route_and_each_of_its_responses(described: Schema) -> None:
    found = {
        (method, path): set(operation["responses"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert found == ROUTES
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_routes_fields_and_parameters_have_descriptions(described: Schema) -> None:
    for operations in described["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            for response in operation["responses"].values():
                assert response["description"]
    for name, schema in described["components"]["schemas"].items():
        assert schema["description"], name
        for field, text in schema["properties"].items():
            assert text.keys() & {"description", "examples", "enum", "items"}, f"{name}.{field}"


def test_a_prediction_takes_a_file_or_the_image_itself(described: Schema) -> None:
    operation = described["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["format"] == "binary"
    assert {parameter["name"] for parameter in operation["parameters"]} == {"top_k", "min_probability"}
    for parameter in operation["parameters"]:
        assert (parameter["in"], parameter["required"]) == ("query", False)


@pytest.mark.parametrize("path", ["/predict", "/model", "/model/labels"])
def test_describes_api_keys_where_they_are_required(make_app: MakeApp, path: str) -> None:
    [secured] = make_app(api_keys="key").openapi()["paths"][path].values()
    assert {"APIKeyHeader", "HTTPBearer"} <= {name for scheme in secured["security"] for name in scheme}
    [unsecured] = make_app().openapi()["paths"][path].values()
    assert "security" not in unsecured


def test_each_kind_of_error_has_an_example(described: Schema) -> None:
    responses = described["paths"]["/predict"]["post"]["responses"]
    examples: dict[str, str] = {}
    for status, response in responses.items():
        for name, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
            schema = response["content"]["application/problem+json"]["schema"]
            validate(example["value"], schema, described)
            assert (example["value"]["type"], str(example["value"]["status"])) == (name, status)
            assert example["value"]["title"] in response["description"]
            examples[name] = status
    rows = [problem_type(Overloaded("", 1.0) if kind is Overloaded else kind()) for kind in PREDICTION_ERRORS]
    assert examples == {row.type: str(row.status) for row in rows if row is not None}


async def test_real_responses_are_as_described(
    make_app: MakeApp, connect: Connect, grey: Grey, described: Schema
) -> None:
    app = make_app(api_keys="key", max_upload_bytes=5000)
    async with connect(app) as client:
        client.headers["x-api-key"] = "key"
        responses = [
            await client.post("/predict", content=grey(1), headers=PNG),
            await client.post("/predict", content=b"", headers=PNG),
            await client.post("/predict", content=grey(1), headers=PNG | {"x-api-key": "wrong"}),
            await client.post("/predict", content=bytes(5001), headers=PNG),
            await client.post("/predict", content=b"words", headers=PNG),
            await client.post("/predict", content=grey(1)[:30], headers=PNG),
            await client.post("/predict?top_k=0", content=grey(1), headers=PNG),
            *[await client.get(path) for path in ("/health", "/health/live", "/health/ready")],
            *[await client.get(path) for path in ("/model", "/model/labels", "/metrics")],
            await client.get("/model", headers={"x-api-key": "wrong"}),
        ]
        context = context_of(app)
        service, context.service = context.service, None
        responses += [await client.get(path) for path in ("/health", "/health/live", "/health/ready", "/model")]
        responses.append(await client.post("/predict", content=grey(1), headers=PNG))
        context.service = service
    for response in responses:
        operation = described["paths"][response.request.url.path][response.request.method.lower()]
        content = operation["responses"][str(response.status_code)].get("content", {})
        kind = response.headers["content-type"].partition(";")[0]
        if kind != "text/plain":
            validate(response.json(), content[kind]["schema"], described)


async def test_the_number_of_labels_is_the_maximum_once_the_model_is_loaded(
    make_app: MakeApp, connect: Connect
) -> None:
    async with connect(make_app()) as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path, name, allowed in (("/predict", "top_k", 256), ("/explain", "class_id", 255)):
            [parameter] = [item for item in paths[path]["post"]["parameters"] if item["name"] == name]
            [option] = [option for option in parameter["schema"]["anyOf"] if option["type"] == "integer"]
            assert option["maximum"] == allowed


def test_operations_have_unique_names_after_their_paths(described: Schema) -> None:
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    assert {"predict", "predict_batch", "embed", "explain", "model", "model_labels", "health"} <= set(names)


def test_problems_are_references_to_one_schema(described: Schema) -> None:
    for operations in described["paths"].values():
        for operation in operations.values():
            for response in operation["responses"].values():
                problem = response.get("content", {}).get("application/problem+json", {})
                assert problem.get("schema", {"$ref": "#/components/schemas/Problem"}) == {
                    "$ref": "#/components/schemas/Problem"
                }


def test_the_formats_of_other_servers_have_bodies_and_errors(make_app: MakeApp) -> None:
    described = make_app(protocols="open_inference,kserve,sagemaker,vertex,huggingface").openapi()
    added = {path: operations for path, operations in described["paths"].items() if ("post", path) not in ROUTES}
    assert {"/", "/invocations", "/vertex/predict", "/v1/models/{name}:predict", "/v2/models/{name}/infer"} <= set(
        added
    )
    for path, operations in added.items():
        if "post" in operations:
            assert operations["post"]["requestBody"]["content"]
        if path.startswith(("/v1", "/v2", "/vertex")):
            for operation in operations.values():
                assert set(operation["responses"]) == {"200", "default"}
    assert "HTTPValidationError" not in described["components"]["schemas"]
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
