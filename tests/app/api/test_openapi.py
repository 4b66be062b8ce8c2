"""/openapi.json against the service: every route, field, parameter and error is described as it is."""

import json
import re
from typing import Any

import pytest

from app.api.problems import PREDICTION_ERRORS, problem_type
from app.serving.errors import Overloaded

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
ROUTES = {
    ("post", "/predict"): {"200", "400", "401", "413", "415", "422", "503", "504"},
    ("get", "/health"): {"200", "503"},
    ("get", "/health/live"): {"200", "503"},
    ("get", "/health/ready"): {"200", "503"},
    ("get", "/model"): {"200", "401", "503"},
    ("get", "/model/labels"): {"200", "401", "503"},
    ("get", "/metrics"): {"200"},
}


@pytest.fixture
def described(make_app) -> dict[str, Any]:
    return make_app().openapi()


def resolved(schema: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return described["components"]["schemas"][schema["$ref"].removeprefix("#/components/schemas/")]
    return schema


def conforms(value: Any, schema: dict[str, Any], described: dict[str, Any]) -> bool:
    """Whether a JSON value is what a schema of those that FastAPI writes says, with no field besides."""
    schema = resolved(schema, described)
    if "anyOf" in schema:
        return any(conforms(value, one, described) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return value in schema.get("enum", [schema.get("const")])
    match schema["type"]:
        case "object":
            fields = schema["properties"]
            return (
                isinstance(value, dict)
                and set(schema["required"]) <= set(value) <= set(fields)
                and all(conforms(value[name], fields[name], described) for name in value)
            )
        case "array":
            return isinstance(value, list) and all(conforms(one, schema["items"], described) for one in value)
        case "null":
            return value is None
        case "number":
            return type(value) in (int, float)
        case kind:
            return type(value) is {"string": str, "integer": int, "boolean": bool}[kind]


def test_every_route_and_each_of_its_answers_is_described(described):
    found = {
        (method, path): set(operation["responses"])
        for path, operations in described["paths"].items()
        for method, operation in operations.items()
    }
    assert found == ROUTES
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_every_reference_leads_somewhere(described):
    for name in re.findall(r'"#/components/schemas/(.+?)"', json.dumps(described)):
        assert name in described["components"]["schemas"]


def test_routes_fields_and_parameters_are_explained(described):
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


def test_prediction_takes_a_file_or_the_image_itself(described):
    operation = described["paths"]["/predict"]["post"]
    assert set(operation["requestBody"]["content"]) == {"multipart/form-data", "image/*"}
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["format"] == "binary"
    [parameter] = operation["parameters"]
    assert (parameter["name"], parameter["in"], parameter["required"]) == ("top_k", "query", False)


@pytest.mark.parametrize("path", ["/predict", "/model", "/model/labels"])
def test_a_key_is_described_where_it_is_asked_for(make_app, path):
    [secured] = make_app(api_keys="key").openapi()["paths"][path].values()
    assert {"APIKeyHeader", "HTTPBearer"} <= {name for one in secured["security"] for name in one}
    [open_to_all] = make_app().openapi()["paths"][path].values()
    assert "security" not in open_to_all


def test_each_kind_of_refusal_has_an_example(described):
    responses = described["paths"]["/predict"]["post"]["responses"]
    examples = {}
    for status, response in responses.items():
        for name, example in response["content"].get("application/problem+json", {}).get("examples", {}).items():
            schema = response["content"]["application/problem+json"]["schema"]
            assert conforms(example["value"], schema, described)
            assert str(example["value"]["status"]) == status
            examples[name] = status
    rows = [problem_type(kind("", 1.0) if kind is Overloaded else kind()) for kind in PREDICTION_ERRORS]
    assert examples == {row.type: str(row.status) for row in rows}


async def test_real_answers_are_as_described(make_app, connect, engine, grey, described):
    app = make_app(api_keys="key", max_upload_bytes=5000)
    async with connect(app) as client:
        client.headers["x-api-key"] = "key"
        answers = [
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
        app.state.context.service, classifier = None, app.state.context.service
        answers += [await client.get(path) for path in ("/health", "/health/live", "/health/ready", "/model")]
        answers.append(await client.post("/predict", content=grey(1), headers=PNG))
        app.state.context.service = classifier
    for answer in answers:
        operation = described["paths"][answer.request.url.path][answer.request.method.lower()]
        content = operation["responses"][str(answer.status_code)].get("content", {})
        kind = re.match("[^;]*", answer.headers["content-type"])[0]
        if kind != "text/plain":
            assert conforms(answer.json(), content[kind]["schema"], described), answer.json()


def test_a_value_of_another_form_does_not_conform(described):
    responses = described["paths"]["/model"]["get"]["responses"]
    problem = responses["401"]["content"]["application/problem+json"]["schema"]
    right = {"type": "a", "title": "b", "status": 400, "detail": "c"}
    assert conforms(right, problem, described)
    for wrong in (right | {"status": "400"}, right | {"more": 1}, {"type": "a"}, []):
        assert not conforms(wrong, problem, described)


async def test_the_documentation_page_is_there(connect):
    async with connect() as client:
        response = await client.get("/docs")
    assert response.status_code == 200
    assert "/openapi.json" in response.text
