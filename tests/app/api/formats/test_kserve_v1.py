"""KServe's V1 protocol: request bodies as in its documentation."""

import base64
import json
from collections.abc import Callable

import pytest

from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio


def b64(image: bytes) -> str:
    return base64.b64encode(image).decode()


async def test_the_model_is_listed_and_ready(connect: Connect) -> None:
    async with connect(protocols={"kserve"}) as client:
        assert (await client.get("/v1/models")).json() == {"models": ["fake"]}
        assert (await client.get("/v1/models/fake")).json() == {"name": "fake", "ready": True}
        unknown = await client.get("/v1/models/other")
    assert unknown.status_code == 404
    assert "other" in unknown.json()["error"]


@pytest.mark.parametrize("form", ['{"b64": "%s"}', '{"image_bytes": {"b64": "%s"}}', '"%s"'])
async def test_each_instance_gets_its_classes_in_order(connect: Connect, grey: Grey, form: str) -> None:
    texts = [b64(grey(level)) for level in (3, 9, 200)]
    instances = ", ".join(form % text for text in texts)
    body = f'{{"instances": [{instances}], "parameters": {{"top_k": 2}}}}'
    async with connect(protocols={"kserve"}) as client:
        response = await client.post("/v1/models/fake:predict", content=body)
    assert response.status_code == 200, response.text
    found = [[item["class_id"] for item in row] for row in response.json()["predictions"]]
    assert found == [[3, 4], [9, 10], [200, 201]]


@pytest.mark.parametrize("version", ["", "/versions/1"])
async def test_the_fields_besides_the_image_are_returned(connect: Connect, grey: Grey, version: str) -> None:
    instances = [
        {"image_bytes": {"b64": b64(grey(3))}, "key": "first"},
        {"key": 2, "b64": b64(grey(9)), "ratio": 0.5, "note": None},
        {"image": b64(grey(30)), "key": "Schäfer"},
        {"b64": b64(grey(200))},
    ]
    body = {"signature_name": "serving_default", "instances": instances, "parameters": {"top_k": 1}}
    async with connect(protocols={"kserve", "vertex"}) as client:
        for path in (f"/v1/models/fake{version}:predict", "/vertex/predict"):
            response = await client.post(path, content=json.dumps(body))
            assert response.status_code == 200, response.text
            first, second, third, fourth = json.loads(response.content)["predictions"]
            assert [first.pop("key"), third.pop("key")] == ["first", "Schäfer"]
            assert {name: second.pop(name) for name in ("key", "ratio", "note")} == {
                "key": 2,
                "ratio": 0.5,
                "note": None,
            }
            rows = [first.pop("predictions"), second.pop("predictions"), third.pop("predictions"), fourth]
            assert [[item["class_id"] for item in row] for row in rows] == [[3], [9], [30], [200]]
            assert first == second == third == {}


async def test_the_only_text_of_an_instance_is_its_image(connect: Connect, grey: Grey) -> None:
    body = {"instances": [{"data": b64(grey(9)), "target": 0}]}  # as in KServe's sample torchserve/v1/mnist.json
    async with connect(protocols={"kserve"}) as client:
        predicted = await client.post("/v1/models/fake:predict", json=body)
        explained = await client.post("/v1/models/fake:explain", json=body)
    [prediction] = predicted.json()["predictions"]
    assert (prediction["target"], prediction["predictions"][0]["class_id"]) == (0, 9)
    assert explained.json()["explanations"][0]["class_id"] == 9


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: {"image_bytes": images}])
@pytest.mark.parametrize("form", ['{"b64": "%s"}', '"%s"'])
async def test_columns_of_inputs_get_outputs(
    connect: Connect, grey: Grey, form: str, wrap: Callable[[object], object]
) -> None:
    images = [json.loads(form % b64(grey(level))) for level in (3, 9)]
    async with connect(protocols={"kserve"}) as client:
        response = await client.post("/v1/models/fake:predict", json={"inputs": wrap(images)})
    content = response.json()
    assert list(content) == ["outputs"]
    assert [[item["class_id"] for item in row][:2] for row in content["outputs"]] == [[3, 4], [9, 10]]


async def test_columns_besides_the_image_are_returned_as_columns(connect: Connect, grey: Grey) -> None:
    columns = {"key": ["a", "b"], "image_bytes": [{"b64": b64(grey(level))} for level in (3, 9)]}
    async with connect(protocols={"kserve"}) as client:
        response = await client.post("/v1/models/fake:predict", json={"inputs": columns})
    outputs = response.json()["outputs"]
    assert outputs["key"] == ["a", "b"]
    assert [row[0]["class_id"] for row in outputs["predictions"]] == [3, 9]


@pytest.mark.parametrize("inputs", ['{"b64": "%s"}', '{"image_bytes": {"b64": "%s"}}', '{"image_bytes": "%s"}'])
async def test_one_input_may_stand_without_a_list(connect: Connect, grey: Grey, inputs: str) -> None:
    body = {"inputs": json.loads(inputs % b64(grey(7)))}
    async with connect(protocols={"kserve"}) as client:
        response = await client.post("/v1/models/fake:predict", json=body)
    [row] = response.json()["outputs"]
    assert row[0]["class_id"] == 7


async def test_the_version_of_the_model_is_one(connect: Connect, grey: Grey) -> None:
    body = {"instances": [{"b64": b64(grey(7)), "key": "a"}]}
    async with connect(protocols={"kserve"}) as client:
        assert (await client.get("/v1/models/fake/versions/1")).json() == {"name": "fake", "ready": True}
        explained = await client.post("/v1/models/fake/versions/1:explain", json=body)
        assert explained.json()["explanations"][0]["key"] == "a"
        for action in ("predict", "explain"):
            response = await client.post(f"/v1/models/fake/versions/2:{action}", json=body)
            assert response.status_code == 404
            assert "'2'" in response.json()["error"]
        assert (await client.get("/v1/models/fake/versions/2")).status_code == 404


async def test_an_explanation_adds_up_to_the_logit(connect: Connect, grey: Grey) -> None:
    body = {"instances": [{"b64": b64(grey(7))}], "parameters": {"class_id": 2}}
    async with connect(protocols={"kserve"}) as client:
        response = await client.post("/v1/models/fake:explain", json=body)
    [explanation] = response.json()["explanations"]
    assert explanation["class_id"] == 2
    values = [value for row in explanation["map"] for value in row]
    assert len(values) == 4


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"instances": []}',
        b'{"instances": [1]}',
        b'{"instances": [{"b64": "%%%"}]}',
        b'{"instances": [{"b64": ""}]}',
        b'{"instances": [{"b64": "http://localhost/photo.jpg"}]}',
        b'{"instances": [{"a": "", "b": ""}]}',
        b'{"instances": [{"image_bytes": {"b64": "AA=="}, "key": NaN}]}',
        b'{"instances": [{"image_bytes": {"b64": "AA=="}, "key": 1e999}]}',
        b'{"instances": [{"image_bytes": {"b64": "AA=="}, "key": [1]}]}',
        b'{"instances": [{"image_bytes": {"b64": "AA=="}, "predictions": 1}]}',
        b'{"instances": [{"a": {"b64": "AA=="}, "b": {"b64": "AA=="}}]}',
        b'{"instances": [{}]}',
        b'{"instances": {"b64": "AA=="}}',
        b'{"instances": ["AA=="], "inputs": ["AA=="]}',
        b'{"inputs": []}',
        b'{"inputs": {}}',
        b'{"inputs": 1}',
        b'{"inputs": {"image_bytes": [{"b64": "AA=="}], "key": ["1", "2"]}}',
        b'{"inputs": {"image_bytes": [], "key": []}}',
        b'{"instances": ["AA=="], "parameters": 1}',
        b'{"instances": ["AA=="], "parameters": {"top_n": 1}}',
        b'{"instances": ["AA=="], "parameters": [1]}',
        b'{"instances": [' + b'"AA==",' * 16 + b'"AA=="]}',
        b"[" * 100_000,
        b"[" + b"1," * 300_000 + b"1]",
    ],
)
async def test_a_malformed_body_is_an_error_in_the_protocols_form(connect: Connect, body: bytes) -> None:
    async with connect(protocols={"kserve"}) as client:
        for action in ("predict", "explain"):
            response = await client.post(f"/v1/models/fake:{action}", content=body)
            assert response.status_code == 400
            assert isinstance(response.json()["error"], str)


async def test_predictions_need_a_key_but_health_checks_do_not(connect: Connect, grey: Grey) -> None:
    body = {"instances": [{"b64": b64(grey(1))}]}
    async with connect(protocols={"kserve"}, api_keys={"secret"}) as client:
        assert (await client.post("/v1/models/fake:predict", json=body)).status_code == 401
        keyed = await client.post("/v1/models/fake:predict", json=body, headers={"X-API-Key": "secret"})
        assert keyed.status_code == 200
        assert (await client.get("/v1/models/fake")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 401
        assert "fake" not in (await client.get("/v1/models/other")).text
