"""POST /predict: the forms of a request, its answer, and every way in which it is refused."""

import asyncio
import re

import pytest

from model.errors import EngineError

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
TYPES = {"JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif", "BMP": "image/bmp", "TIFF": "image/tiff"}


async def test_a_multipart_upload_is_answered(connect, grey):
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


@pytest.mark.parametrize("content_type", ["image/png", "IMAGE/PNG; q=1", "image/jpeg", "application/octet-stream", ""])
async def test_a_raw_body_is_answered_for_what_it_is(connect, grey, content_type):
    async with connect() as client:
        response = await client.post("/predict", content=grey(9), headers={"content-type": content_type})
    assert response.json()["predictions"][0]["class_id"] == 9


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
async def test_every_accepted_format_is_answered(connect, grey, kind):
    async with connect() as client:
        response = await client.post("/predict", files={"file": grey(128, kind)})
    assert abs(response.json()["predictions"][0]["class_id"] - 128) <= 2  # lossy formats may round


async def test_top_k_is_the_setting_unless_asked(connect, grey):
    async with connect(top_k=4) as client:
        assert len((await client.post("/predict", content=grey(1), headers=PNG)).json()["predictions"]) == 4
        everything = await client.post("/predict?top_k=256", content=grey(1), headers=PNG)
    probabilities = [one["probability"] for one in everything.json()["predictions"]]
    assert len(probabilities) == 256
    assert probabilities == sorted(probabilities, reverse=True)


async def test_server_timing_names_the_three_parts_in_milliseconds(connect, grey):
    async with connect() as client:
        response = await client.post("/predict", content=grey(1), headers=PNG)
    metric = r"([!#$%&'*+.^_`|~0-9A-Za-z-]+);dur=([0-9]+(?:\.[0-9]+)?)"  # a token and its duration, W3C Server Timing
    parts = response.headers["server-timing"].split(", ")
    found = {match[1]: float(match[2]) for match in (re.fullmatch(metric, part) for part in parts)}
    assert list(found) == ["decode", "queue", "inference"]
    assert 0 < found["decode"] < 20_000


async def test_requests_share_forward_passes(connect, engine, grey, until):
    engine.gate.clear()
    async with connect() as client:
        tasks = [asyncio.ensure_future(client.post("/predict", files={"file": grey(v)})) for v in range(64)]
        await engine.entered()
        batcher = client.app.state.context.service._batcher
        await until(lambda: len(batcher._waiting) == 64 - len(engine.batches[0]))
        engine.gate.set()
        answers = await asyncio.gather(*tasks)
    assert [answer.json()["predictions"][0]["class_id"] for answer in answers] == list(range(64))
    assert len(engine.batches) <= 9
    assert sorted(level for batch in engine.batches for level in batch) == list(range(64))


async def test_a_broken_photo_fails_alone(connect, engine, grey, make_photo, encode, problem):
    cut_off = encode(make_photo(64, 64), "JPEG")[:700]
    engine.gate.clear()
    async with connect() as client:
        bodies = [cut_off if level % 12 == 5 else grey(level) for level in range(84)]
        tasks = [asyncio.ensure_future(client.post("/predict", files={"file": body})) for body in bodies]
        await engine.entered()
        engine.gate.set()
        answers = await asyncio.gather(*tasks)
    for level, answer in enumerate(answers):
        if level % 12 == 5:
            problem(answer, 422, "invalid-image")
        else:
            assert answer.json()["predictions"][0]["class_id"] == level


async def test_no_image_is_an_invalid_request(connect, problem):
    async with connect() as client:
        problem(await client.post("/predict"), 400, "invalid-request")
        problem(await client.post("/predict", content=b"", headers=PNG), 400, "invalid-request")
        problem(await client.post("/predict", files={"file": b""}), 400, "invalid-request")
        detail = problem(await client.post("/predict", files={"photo": b"x"}), 400, "invalid-request")
        assert "'photo'" in detail
        detail = problem(await client.post("/predict", files={"file": (None, "words")}), 400, "invalid-request")
        assert "text field" in detail
        two = [("file", b"x"), ("file", b"y")]
        problem(await client.post("/predict", files=two), 400, "invalid-request")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"words"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"; filename="a'),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="f"\r\n\r\n',
        ),
        ("multipart/form-data; boundary=" + 400 * "x", b"words"),
    ],
)
async def test_malformed_multipart_is_an_invalid_request(connect, problem, content_type, body):
    async with connect() as client:
        response = await client.post("/predict", content=body, headers={"content-type": content_type})
    problem(response, 400, "invalid-request")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
async def test_another_content_type_is_not_supported(connect, grey, problem, content_type):
    async with connect() as client:
        response = await client.post("/predict", content=grey(1), headers={"content-type": content_type})
    assert "image/jpeg" in problem(response, 415, "unsupported-media-type")


async def test_what_is_no_image_is_not_supported(connect, problem):
    async with connect() as client:
        response = await client.post("/predict", files={"file": ("photo.jpg", b"words", "image/jpeg")})
    assert "AVIF" in problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
async def test_a_cut_off_image_is_invalid(connect, make_photo, encode, problem, kind):
    data = encode(make_photo(64, 64), kind)
    async with connect() as client:
        response = await client.post("/predict", files={"file": data[: len(data) // 2]})
    assert kind in problem(response, 422, "invalid-image")


async def test_too_many_pixels_are_refused(connect, make_photo, encode, problem):
    async with connect(max_image_pixels=99) as client:
        response = await client.post("/predict", files={"file": encode(make_photo(10, 10))})
    assert "10×10" in problem(response, 422, "image-too-large")


@pytest.mark.parametrize("query", ["top_k=0", "top_k=-3", "top_k=257", "top_k=five", "top_k=1.5", "top_k=", "topk=3"])
async def test_a_wrong_parameter_is_named(connect, grey, problem, query):
    async with connect() as client:
        detail = problem(await client.post(f"/predict?{query}", content=grey(1), headers=PNG), 422, "invalid-parameter")
    assert detail.startswith(query.partition("=")[0])


async def test_a_number_without_end_is_a_wrong_parameter(connect, grey, problem):
    async with connect() as client:
        response = await client.post(f"/predict?top_k={5000 * '9'}", content=grey(1), headers=PNG)
    problem(response, 422, "invalid-parameter")


async def test_a_full_queue_says_when_to_come_again(connect, engine, grey, problem, until):
    engine.gate.clear()
    async with connect(max_queue_size=2) as client:
        running = asyncio.ensure_future(client.post("/predict", content=grey(0), headers=PNG))
        await engine.entered()
        waiting = asyncio.ensure_future(client.post("/predict", content=grey(1), headers=PNG))
        await until(lambda: client.app.state.context.service.images_in_service == 2)
        response = await client.post("/predict", content=b"not looked at", headers=PNG)
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        engine.gate.set()
        assert [(await task).status_code for task in (running, waiting)] == [200, 200]
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_a_failed_batch_is_unavailable_and_the_next_works(connect, engine, grey, problem):
    engine.failures = [EngineError("out of luck")]
    async with connect() as client:
        problem(await client.post("/predict", content=grey(1), headers=PNG), 503, "unavailable")
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_an_answer_later_than_the_deadline_is_none(connect, engine, grey, problem):
    engine.gate.clear()
    async with connect(request_timeout_s=0.2) as client:
        problem(await client.post("/predict", content=grey(1), headers=PNG), 504, "deadline-exceeded")


async def test_before_the_start_and_in_the_drain_it_is_unavailable(make_app, connect, grey, problem):
    app = make_app()
    async with connect(app) as client:
        classifier, app.state.context.service = app.state.context.service, None
        response = await client.post("/predict", content=grey(1), headers=PNG)
        assert "starting" in problem(response, 503, "unavailable")
        app.state.context.service = classifier
        await classifier.drain(1)
        response = await client.post("/predict", content=grey(1), headers=PNG)
        assert "shutting down" in problem(response, 503, "unavailable")
