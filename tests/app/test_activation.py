"""The output function of the model holds for every route and request format."""

import base64
import dataclasses

import pytest

from tests.app.fake_engine import FakeEngine, FakeModel
from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio

SIGMOID = [0.5, 1 / 3]  # of logits 0 and -log 2
FORMATS = {"open_inference", "kserve", "sagemaker", "vertex", "huggingface"}


@pytest.fixture(autouse=True)
def sigmoid_model(engine: FakeEngine) -> None:
    engine.model = dataclasses.replace(FakeModel(), activation="sigmoid")


async def test_predict_and_batch(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        single = await client.post("/predict?top_k=2", content=grey(4), headers={"Content-Type": "image/png"})
        several = await client.post("/predict/batch?top_k=2", files=[("files", grey(4)), ("files", grey(4))])
    rows = [single.json()["predictions"], *(item["predictions"] for item in several.json()["results"])]
    for row in rows:
        assert [item["probability"] for item in row] == pytest.approx(SIGMOID)


async def test_explain(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/explain?class_id=5", content=grey(4), headers={"Content-Type": "image/png"})
    assert response.json()["probability"] == pytest.approx(SIGMOID[1])


async def test_the_other_request_formats(connect: Connect, grey: Grey) -> None:
    text = base64.b64encode(grey(4)).decode()
    instances = {"instances": [{"b64": text}], "parameters": {"top_k": 2}}
    async with connect(protocols=FORMATS) as client:
        image = {"Content-Type": "image/png"}
        responses = [
            (await client.post("/v1/models/fake:predict", json=instances)).json()["predictions"][0],
            (await client.post("/vertex/predict", json=instances)).json()["predictions"][0],
            (await client.post("/invocations?top_k=2", content=grey(4), headers=image)).json()["predictions"],
        ]
        tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}
        infer = {"inputs": [tensor], "parameters": {"top_k": 2}}
        outputs = (await client.post("/v2/models/fake/infer", json=infer)).json()["outputs"]
    assert [output["data"] for output in outputs if output["name"] == "probability"] == [pytest.approx(SIGMOID)]
    for row in responses:
        assert [item["probability"] for item in row] == pytest.approx(SIGMOID)


async def test_model_names_the_function(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.get("/model")).json()["activation"] == "sigmoid"
        schema = (await client.get("/openapi.json")).json()["components"]["schemas"]["ModelInfo"]
    assert schema["properties"]["activation"]["enum"] == ["softmax", "sigmoid"]


async def test_metrics_have_the_distribution_of_the_highest_probability(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        await client.post("/predict", content=grey(4), headers={"Content-Type": "image/png"})
        text = (await client.get("/metrics")).text
    assert 'convnext_top_probability_bucket{le="0.4"} 0.0' in text
    assert 'convnext_top_probability_bucket{le="0.5"} 1.0' in text
