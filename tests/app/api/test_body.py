"""Request bodies: the limits on their size, when they are enforced, and when their memory is released."""

import logging

import pytest

from tests.app.api.asgi import FORM, PART_HEADERS, PNG, Upload, call, check_released, context_of, service_of, start
from tests.app.fake_engine import FakeEngine
from tests.app.types import CheckProblem, Connect, Grey, MakeApp, Until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("length", ["1001", "9" * 19])
@pytest.mark.parametrize("headers", [PNG, FORM])
async def test_rejects_an_announced_length_over_the_limit_without_reading_the_body(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, length: str, headers: dict[str, str]
) -> None:
    app, upload = make_app(max_upload_bytes=1000), Upload(b"a" * 1001)
    async with connect(app):
        response = await call(app, upload, headers=headers | {"content-length": length})
        assert "1000 bytes" in problem(response, 413, "upload-too-large")
        check_released(app)
    assert not upload.received


@pytest.mark.parametrize(
    "headers", [PNG, PNG | {"content-length": "9" * 5000}, FORM], ids=["raw", "absurd length", "multipart"]
)
async def test_stops_reading_an_unannounced_body_at_the_limit(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, headers: dict[str, str]
) -> None:
    app = make_app(max_upload_bytes=1000)
    upload = Upload(PART_HEADERS, b"a" * 600, b"a" * 600, b"a" * 600)
    async with connect(app):
        problem(await call(app, upload, headers=headers), 413, "upload-too-large")
        check_released(app)
    assert upload.received <= 3


async def test_accepts_a_body_of_exactly_the_limit(connect: Connect, grey: Grey, problem: CheckProblem) -> None:
    data = grey(4)
    async with connect(max_upload_bytes=len(data)) as client:
        assert (await client.post("/predict", content=data, headers=PNG)).status_code == 200
        problem(await client.post("/predict", content=data + b"\0", headers=PNG), 413, "upload-too-large")


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000])
async def test_accepts_a_body_in_chunks_of_any_size(
    make_app: MakeApp, connect: Connect, grey: Grey, chunk_bytes: int
) -> None:
    app, data = make_app(), grey(4)
    form = PART_HEADERS + data + b"\r\n--x--\r\n"
    async with connect(app):
        for headers, whole in ((PNG, data), (FORM, form)):
            chunks = [whole[place : place + chunk_bytes] for place in range(0, len(whole), chunk_bytes)]
            response = await call(app, Upload(b"", *chunks, b""), headers=headers)
            assert response.json()["predictions"][0]["class_id"] == 4
        check_released(app)


@pytest.mark.parametrize("character", [";", '"', "\\", ",", "=", "a"])
async def test_rejects_a_very_long_content_type_without_reading_the_body(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, character: str
) -> None:
    app, upload = make_app(), Upload(b"a")
    headers = {"content-type": "multipart/form-data; boundary=x" + character * 60_000}
    async with connect(app):
        problem(await call(app, upload, headers=headers), 400, "invalid-request")
    assert not upload.received


@pytest.mark.parametrize("content_type", ["multipart/mixed; boundary=x", "multipart/related"])
async def test_rejects_other_multipart_types_without_reading_the_body(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, content_type: str
) -> None:
    app, upload = make_app(), Upload(b"a")
    async with connect(app):
        problem(await call(app, upload, headers={"content-type": content_type}), 415, "unsupported-media-type")
    assert not upload.received


async def test_stops_reading_a_malformed_multipart_body(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app, upload = make_app(), Upload(b"words" * 300, b"more words", complete=False)
    async with connect(app):
        problem(await call(app, upload, headers=FORM), 400, "invalid-request")
        check_released(app)
    assert upload.received == 1


async def test_limits_all_bodies_together(
    make_app: MakeApp, connect: Connect, grey: Grey, problem: CheckProblem
) -> None:
    app = make_app(max_buffered_bytes=1500, max_upload_bytes=1500)
    async with connect(app) as client:
        upload = Upload(b"a" * 1400, complete=False)
        first = start(app, upload)
        await upload.exhausted.wait()
        response = await call(app, Upload(b"a" * 200))
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert context_of(app).uploads.buffered_bytes == 1400
        upload.disconnect()
        assert (await first).status_code == 499
        check_released(app)
        for _ in range(10):
            assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_memory_counts_until_the_response(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey
) -> None:
    app, data = make_app(), grey(1)
    engine.gate.clear()
    async with connect(app):
        request = start(app, Upload(data))
        await engine.entered()
        assert context_of(app).uploads.buffered_bytes == len(data)
        engine.gate.set()
        assert (await request).status_code == 200
        check_released(app)


@pytest.mark.parametrize(("data", "status"), [(b"words", 415), (b"\x89PNG\r\n\x1a\n", 422)])
async def test_releases_memory_after_an_error(make_app: MakeApp, connect: Connect, data: bytes, status: int) -> None:
    app = make_app()
    async with connect(app):
        assert (await call(app, Upload(data))).status_code == status
        check_released(app)


@pytest.mark.parametrize("headers", [PNG, FORM])
async def test_a_disconnect_within_the_body_releases_memory_and_is_not_an_error(
    make_app: MakeApp, connect: Connect, caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    app, upload = make_app(), Upload(b"--x\r\n", complete=False)
    upload.disconnect()
    async with connect(app):
        assert (await call(app, upload, headers=headers)).status_code == 499
        check_released(app)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_stalled_upload_releases_its_place(
    make_app: MakeApp, connect: Connect, grey: Grey, until: Until
) -> None:
    app, data = make_app(max_queue_size=1, max_batch_size=1), grey(7)
    upload = Upload(data[:20], complete=False)
    async with connect(app) as client:
        context_of(app).upload_grace_s = 0.01
        stalled = start(app, upload)
        await until(lambda: service_of(app).images_in_service == 1)
        await until(lambda: service_of(app).images_in_service == 0)
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200
        upload.send(data[20:], complete=True)
        assert (await stalled).json()["predictions"][0]["class_id"] == 7
        check_released(app)


async def test_a_stalled_upload_holds_its_place_for_a_second(make_app: MakeApp) -> None:
    assert context_of(make_app()).upload_grace_s == 1.0


async def test_a_stalled_upload_is_rejected_if_its_place_has_been_taken(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, problem: CheckProblem, until: Until
) -> None:
    app, data = make_app(max_queue_size=1, max_batch_size=1), grey(7)
    upload = Upload(data[:20], complete=False)
    engine.gate.clear()
    async with connect(app):
        context_of(app).upload_grace_s = 0.01
        stalled = start(app, upload)
        await until(lambda: service_of(app).images_in_service == 1)
        await until(lambda: service_of(app).images_in_service == 0)
        running = start(app, Upload(grey(1)))
        await engine.entered()
        upload.send(data[20:], complete=True)
        response = await stalled
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        engine.gate.set()
        assert (await running).status_code == 200
        check_released(app)
    assert engine.batches == [[1]]


@pytest.mark.parametrize("grace_s", [0.01, 1.0])
@pytest.mark.parametrize("headers", [PNG, FORM])
async def test_a_stalled_upload_ends_at_the_deadline_and_releases_memory(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, headers: dict[str, str], grace_s: float
) -> None:
    app = make_app(request_timeout_s=0.1)
    async with connect(app):
        context_of(app).upload_grace_s = grace_s
        response = await call(app, Upload(PART_HEADERS, complete=False), headers=headers)
        problem(response, 504, "deadline-exceeded")
        check_released(app)
