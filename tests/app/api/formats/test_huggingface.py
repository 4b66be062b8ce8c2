"""Hugging Face Inference Endpoints: image classification."""

import base64
import math

import pytest

from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio


async def test_a_base64_image_gets_labels_and_scores(connect: Connect, grey: Grey) -> None:
    body = {"inputs": base64.b64encode(grey(4)).decode(), "parameters": {"top_k": 2}}
    async with connect(protocols={"huggingface"}) as client:
        response = await client.post("/", json=body)
    assert response.json() == [
        {"label": "grey 4", "score": pytest.approx(0.5)},
        {"label": "grey 5", "score": pytest.approx(0.25)},
    ]


async def test_the_image_itself_is_accepted(connect: Connect, grey: Grey) -> None:
    async with connect(protocols={"huggingface"}) as client:
        response = await client.post("/", content=grey(4), headers={"Content-Type": "image/png"})
    assert response.json()[0]["label"] == "grey 4"
    assert len(response.json()) == 5


@pytest.mark.parametrize(
    ("function", "expected"), [("none", [0.0, -math.log(2)]), ("sigmoid", [0.5, 1 / 3]), ("softmax", [0.5, 0.25])]
)
async def test_the_function_is_applied_to_the_logits(
    connect: Connect, grey: Grey, function: str, expected: list[float]
) -> None:
    parameters = {"top_k": 2, "function_to_apply": function}
    body = {"inputs": base64.b64encode(grey(4)).decode(), "parameters": parameters}
    async with connect(protocols={"huggingface"}) as client:
        response = await client.post("/", json=body)
    assert [item["score"] for item in response.json()] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("body", [{}, {"inputs": 1}, {"inputs": "AA==", "parameters": {"function_to_apply": "relu"}}])
async def test_a_malformed_body_is_an_error(connect: Connect, body: object) -> None:
    async with connect(protocols={"huggingface"}) as client:
        response = await client.post("/", json=body)
    assert response.status_code == 400
    assert response.json()["error"]
