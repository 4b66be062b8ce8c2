"""POST /predict: the forms of a request, its response, and every error."""

import asyncio
import re

import httpx
import pytest

from tests.app.api.asgi import PNG, service_of
from tests.app.fake_engine import FakeEngine
from tests.app.types import CheckProblem, Connect, Grey, MakeApp, Until
from tests.conftest import Encode, MakePhoto

pytestmark = pytest.mark.anyio

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"]


def class_id(response: httpx.Response) -> int:
    """The most probable class."""
    value: int = response.json()["predictions"][0]["class_id"]
    return value


async def test_classifies_a_multipart_upload(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/predict?top_k=2", files={"file": ("photo.png", grey(9), "image/png")})
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    assert response.json() == {
        "model": "fake",
        "predictions": [
            {"label": "grey 9", "class_id": 9, "probability": pytest.approx(0.5)},
            {"label": "grey 10", "class_id": 10, "probability": pytest.approx(0.25)},
        ],
    }


@pytest.mark.parametrize("path", ["/predict", "/predict/"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_another_method_names_the_right_one(
    connect: Connect, problem: CheckProblem, method: str, path: str
) -> None:
    async with connect() as client:
        response = await client.request(method, path)
    detail = problem(response, 405, "about:blank")
    assert "POST /predict" in detail
    assert "/docs" in detail
    assert response.headers["allow"] == "POST"


async def test_top_k_defaults_to_the_setting(connect: Connect, grey: Grey) -> None:
    async with connect(top_k=4) as client:
        assert len((await client.post("/predict", content=grey(1), headers=PNG)).json()["predictions"]) == 4
        everything = await client.post("/predict?top_k=256", content=grey(1), headers=PNG)
    probabilities = [prediction["probability"] for prediction in everything.json()["predictions"]]
    assert len(probabilities) == 256
    assert probabilities == sorted(probabilities, reverse=True)


async def test_server_timing_has_three_durations_in_milliseconds(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/predict", content=grey(1), headers=PNG)
    metric = r"([!#$%&'*+.^_`|~0-9A-Za-z-]+);dur=([0-9]+(?:\.[0-9]+)?)"  # a token and its duration, W3C Server Timing
    found = dict(re.findall(metric, response.headers["server-timing"]))
    assert all(re.fullmatch(metric, part) for part in response.headers["server-timing"].split(", "))
    assert list(found) == ["decode", "queue", "inference"]
    assert 0 < float(found["decode"]) < 20_000


async def test_concurrent_requests_share_batches(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, until: Until
) -> None:
    app = make_app()
    engine.gate.clear()
    async with connect(app) as client:
        tasks = [asyncio.create_task(client.post("/predict", files={"file": grey(level)})) for level in range(64)]
        await engine.entered()
        await until(lambda: service_of(app).queue_length == 64 - len(engine.batches[0]))
        engine.gate.set()
        responses = await asyncio.gather(*tasks)
    assert [class_id(response) for response in responses] == list(range(64))
    assert len(engine.batches) <= 9
    assert sorted(level for batch in engine.batches for level in batch) == list(range(64))


async def test_an_invalid_image_does_not_affect_the_others(
    connect: Connect,
    engine: FakeEngine,
    grey: Grey,
    make_photo: MakePhoto,
    encode: Encode,
    problem: CheckProblem,
) -> None:
    truncated = encode(make_photo(64, 64), "JPEG")[:700]
    engine.gate.clear()
    async with connect() as client:
        bodies = [truncated if level % 12 == 5 else grey(level) for level in range(84)]
        tasks = [asyncio.create_task(client.post("/predict", files={"file": body})) for body in bodies]
        await engine.entered()
        engine.gate.set()
        responses = await asyncio.gather(*tasks)
    for level, response in enumerate(responses):
        if level % 12 == 5:
            problem(response, 422, "invalid-image")
        else:
            assert class_id(response) == level


async def test_a_request_without_an_image_is_invalid(connect: Connect, problem: CheckProblem) -> None:
    async with connect() as client:
        problem(await client.post("/predict"), 400, "invalid-request")
        problem(await client.post("/predict", content=b"", headers=PNG), 400, "invalid-request")
        problem(await client.post("/predict", files={"file": b""}), 400, "invalid-request")
        detail = problem(await client.post("/predict", files={"photo": b"x"}), 400, "invalid-request")
        assert "'photo'" in detail
        problem(await client.post("/predict", files={"file": (None, "words")}), 400, "invalid-request")
        two = [("file", b"x"), ("file", b"y")]
        problem(await client.post("/predict", files=two), 400, "invalid-request")


@pytest.mark.parametrize("content_type", ["text/plain", "multipart/mixed", "application/x-www-form-urlencoded"])
async def test_rejects_other_content_types(connect: Connect, problem: CheckProblem, content_type: str) -> None:
    async with connect() as client:
        response = await client.post("/predict", content=b"file=photo.jpg", headers={"content-type": content_type})
    assert "image/jpeg" in problem(response, 415, "unsupported-media-type")


async def test_rejects_too_many_pixels(
    connect: Connect, make_photo: MakePhoto, encode: Encode, problem: CheckProblem
) -> None:
    async with connect(max_image_pixels=99) as client:
        response = await client.post("/predict", files={"file": encode(make_photo(10, 10))})
    assert "10×10" in problem(response, 422, "image-too-large")


@pytest.mark.parametrize("query", ["top_k=0", "top_k=-3", "top_k=257", "top_k=five", "top_k=1.5", "top_k=", "topk=3"])
async def test_names_a_wrong_parameter(connect: Connect, grey: Grey, problem: CheckProblem, query: str) -> None:
    async with connect() as client:
        detail = problem(await client.post(f"/predict?{query}", content=grey(1), headers=PNG), 422, "invalid-parameter")
    assert detail.startswith(query.partition("=")[0])


@pytest.mark.parametrize("digits", [20, 4300, 4301, 5000, 30_000])
@pytest.mark.parametrize("sign", ["", "-", "+"])
async def test_a_number_of_thousands_of_digits_is_a_wrong_parameter(
    connect: Connect, grey: Grey, problem: CheckProblem, sign: str, digits: int
) -> None:
    async with connect() as client:
        response = await client.post(f"/predict?top_k={sign}{digits * '9'}", content=grey(1), headers=PNG)
    detail = problem(response, 422, "invalid-parameter")
    assert len(detail) < 5000
