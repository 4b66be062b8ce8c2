"""Vertex AI: the routes and bodies of its documentation."""

import base64

import pytest

from tests.app.fake_engine import FakeEngine
from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio


async def test_instances_are_classified_on_the_configured_routes(connect: Connect, grey: Grey) -> None:
    health, predict = "/v1/endpoints/1/health", "/v1/endpoints/1:predict"
    body = {"instances": [{"b64": base64.b64encode(grey(5)).decode()}], "parameters": {"top_k": 1}}
    async with connect(protocols={"vertex"}, vertex_health_route=health, vertex_predict_route=predict) as client:
        assert (await client.get(health)).status_code == 200
        response = await client.post(predict, json=body)
    assert response.json() == {"predictions": [[{"label": "grey 5", "class_id": 5, "probability": pytest.approx(0.5)}]]}


async def test_the_health_check_fails_while_the_engine_fails(connect: Connect, engine: FakeEngine, grey: Grey) -> None:
    async with connect(protocols={"vertex"}) as client:
        for _ in range(3):
            engine.failures.append(RuntimeError("broken"))
            await client.post("/predict", files={"file": grey(1)})
        engine.gate.clear()  # the probe of the engine waits
        assert (await client.get("/vertex/health")).status_code == 503


async def test_the_routes_may_be_those_of_the_service(connect: Connect, grey: Grey) -> None:
    body = {"instances": [{"b64": base64.b64encode(grey(5)).decode()}]}
    async with connect(protocols={"vertex"}, vertex_health_route="/health", vertex_predict_route="/predict") as client:
        assert (await client.get("/health")).status_code == 200
        response = await client.post("/predict", json=body)
        assert response.json()["predictions"][0][0]["class_id"] == 5
        assert (await client.post("/predict", json={})).json()["error"]
        described = (await client.get("/openapi.json")).json()
        assert "/predict" in described["paths"]
