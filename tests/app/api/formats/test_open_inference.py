"""The Open Inference Protocol, at the level of its bodies; tests/clients drives it with Triton's client."""

import base64
import json
import math
import time

import numpy as np
import pytest

from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio

INFER = "/v2/models/fake/infer"


def request(data: object, datatype: str = "BYTES", shape: object = (1,), **more: object) -> dict[str, object]:
    tensor = {"name": "image", "datatype": datatype, "shape": shape, "data": data}
    return {"inputs": [tensor], **more}


async def test_metadata_and_health_follow_the_specification(connect: Connect) -> None:
    async with connect(protocols={"open_inference"}) as client:
        server = (await client.get("/v2")).json()
        assert (await client.get("/v2/")).json() == server
        assert server["name"]
        assert server["extensions"] == ["binary_tensor_data"]
        for path in (
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/fake/ready",
            "/v2/models/fake/versions/1/ready",
        ):
            assert (await client.get(path)).status_code == 200
        model = (await client.get("/v2/models/fake/versions/1")).json()
        assert {"name", "versions", "platform", "inputs", "outputs"} <= set(model)
        for path in ("/v2/models/other", "/v2/models/fake/versions/2", "/v2/models/other/ready"):
            response = await client.get(path)
            assert (response.status_code, list(response.json())) == (404, ["error"])


async def test_images_in_json_are_classified_in_order(connect: Connect, grey: Grey) -> None:
    texts = [base64.b64encode(grey(level)).decode() for level in (5, 6)]
    body = request([[text] for text in texts], shape=[2, 1], id="7", parameters={"top_k": 2})
    async with connect(protocols={"open_inference"}) as client:
        response = await client.post(INFER, json=body)
    assert response.status_code == 200, response.text
    content = response.json()
    assert (content["model_name"], content["id"]) == ("fake", "7")
    outputs = {output["name"]: output for output in content["outputs"]}
    assert outputs["class_id"]["data"] == [5, 6, 6, 7]
    assert outputs["label"]["data"] == ["grey 5", "grey 6", "grey 6", "grey 7"]
    assert outputs["probability"]["data"] == pytest.approx([0.5, 0.25] * 2)
    assert {tuple(output["shape"]) for output in outputs.values()} == {(2, 2)}


async def test_null_is_as_good_as_none(connect: Connect, grey: Grey) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(grey(5)).decode()]}
    output = {"name": "class_id"}
    bodies = (
        {"inputs": [tensor], "outputs": [output]},
        {"inputs": [tensor | {"parameters": None}], "outputs": [output | {"parameters": None}], "parameters": None},
    )
    async with connect(protocols={"open_inference"}) as client:
        expected, found = [(await client.post(INFER, json=body | {"id": None})).json() for body in bodies]
    assert found == expected
    assert found["outputs"][0]["data"][0] == 5


async def test_only_requested_outputs_are_returned(connect: Connect, grey: Grey) -> None:
    image = grey(5)
    body = request(list(image), "UINT8", [1, len(image)], outputs=[{"name": "class_id"}])
    async with connect(protocols={"open_inference"}) as client:
        response = await client.post(INFER, json=body)
    assert [output["name"] for output in response.json()["outputs"]] == ["class_id"]


async def test_logits_and_scores_are_returned_on_request(connect: Connect, grey: Grey) -> None:
    texts = [base64.b64encode(grey(level)).decode() for level in (5, 254)]
    outputs = [{"name": name} for name in ("logits", "score", "class_id")]
    body = request(texts, shape=[2], outputs=outputs, parameters={"top_k": 3})
    async with connect(protocols={"open_inference"}) as client:
        described = {item["name"]: item for item in (await client.get("/v2/models/fake")).json()["outputs"]}
        response = await client.post(INFER, json=body)
    found = {output["name"]: output for output in response.json()["outputs"]}
    assert list(found) == ["logits", "score", "class_id"]
    assert [found[name]["shape"] for name in found] == [[2, 256], [2, 3], [2, 3]]
    logits = np.array(found["logits"]["data"]).reshape(2, 256)
    assert logits[0, [5, 6, 7, 4]] == pytest.approx(-math.log(2) * np.array([0, 1, 2, 255]), rel=1e-6)
    assert logits[1, [254, 255, 0]] == pytest.approx(-math.log(2) * np.arange(3), rel=1e-6)
    assert found["class_id"]["data"] == [5, 6, 7, 254, 255, 0]
    assert found["score"]["data"] == [
        logits[row, index] for row, index in ((0, 5), (0, 6), (0, 7), (1, 254), (1, 255), (1, 0))
    ]
    assert {name: described[name]["datatype"] for name in found} == {name: found[name]["datatype"] for name in found}
    assert described["logits"]["shape"] == [-1, 256]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        request(["AA=="], datatype="FP32"),
        request(["AA=="], shape=[2]),
        request(["AA=="], shape=[]),
        request(["AA=="], shape=[-1]),
        request(["AA=="], shape=[1, 1, 1]),
        request([1.5], "UINT8"),
        request([256], "UINT8"),
        request([1, 2], "UINT8", [2, 1]),
        request(None),
        request(["AA=="], outputs=[{"name": "scores"}]),
        request(["AA=="], outputs=[{"name": "logits", "parameters": {"classification": 3}}]),
        request(["AA=="] * 250_000),
        request(["AA=="], parameters={"top_k": 0}),
        request(["AA=="], parameters={"min_probability": 0.5}),
        {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}]},
    ],
)
async def test_a_malformed_request_is_an_error_in_the_protocols_form(connect: Connect, body: object) -> None:
    async with connect(protocols={"open_inference"}) as client:
        response = await client.post(INFER, json=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize(
    ("size", "binary"),
    [
        ("x", b""),
        ("999999", b""),
        ("0" * 4400 + "1", b""),
        (None, b"\x05\0\0\0ab"),
        (None, b"\xff\xff\xff\xff"),
        (None, b"\0\0\0\0" * 2),
    ],
)
async def test_binary_data_that_does_not_fit_is_an_error(connect: Connect, size: str | None, binary: bytes) -> None:
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(binary)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": size or str(len(header))}
    async with connect(protocols={"open_inference"}) as client:
        response = await client.post(INFER, content=header + binary, headers=headers)
    assert response.status_code == 400


@pytest.mark.parametrize("count", [1, 1_000_000])
async def test_a_tensor_of_empty_elements_does_not_stall_the_event_loop(connect: Connect, count: int) -> None:
    binary = bytes(4_000_000)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [count], "parameters": {"binary_data_size": len(binary)}}
    header = json.dumps({"inputs": [tensor]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(header))}
    async with connect(protocols={"open_inference"}) as client:
        spent = []
        for _ in range(3):  # a garbage collection may fall into one of them
            started = time.thread_time()
            response = await client.post(INFER, content=header + binary, headers=headers)
            spent.append(time.thread_time() - started)
            assert response.status_code == 400
    assert min(spent) < 0.2  # splitting a million elements takes several times as long


async def test_the_protocols_are_off_by_default(connect: Connect) -> None:
    async with connect() as client:
        for path in ("/v2", "/v1/models", "/ping", "/vertex/health"):
            assert (await client.get(path)).status_code == 404
        assert (await client.post("/invocations")).status_code == 404
