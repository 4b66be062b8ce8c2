"""What every request gets: an id, early rejection, a deadline, and Connection: close while draining."""

import asyncio
import json
import logging

import pytest
from starlette.types import Receive, Scope, Send

from tests.app.api.asgi import PNG, Message, Upload, call, check_released, request_counts, service_of, start
from tests.app.fake_engine import FakeEngine
from tests.app.types import CheckProblem, Connect, Grey, MakeApp, Until
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/predict", "/nowhere", "/", "/health"])
async def test_rejects_a_post_on_its_headers_alone_while_the_queue_is_full(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, problem: CheckProblem, path: str
) -> None:
    app, upload = make_app(max_queue_size=1, max_batch_size=1), Upload(grey(1))
    engine.gate.clear()
    async with connect(app) as client:
        running = start(app, Upload(grey(0)))
        await engine.entered()
        response = await call(app, upload, path)
        problem(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert not upload.received
        for other in ("/health", "/health/live", "/metrics", "/model", "/"):
            assert (await client.get(other)).status_code == 200
        engine.gate.set()
        assert (await running).status_code == 200
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_a_connection_over_the_limit_is_for_probes_only(make_app: MakeApp, connect: Connect, grey: Grey) -> None:
    app = make_app(protocols="open_inference")
    async with connect(app) as client:
        for target in ("/health", "/health/live", "/metrics", "/v2/health/ready", "/v2/models/fake/ready"):
            assert (await call(app, Upload(b""), target, method="GET", over_limit=True)).status_code == 200
        rejected = await call(app, Upload(grey(1)), over_limit=True)
        assert (rejected.status_code, rejected.json()["type"]) == (503, "overloaded")
        assert rejected.headers["connection"] == "close"
        assert 'convnext_requests_total{route="/predict",status="503"} 1.0' in await request_counts(client)


@pytest.mark.parametrize(("connection", "received"), [("close", 5), ("keep-alive", 0)])
async def test_the_body_is_received_before_its_connection_is_closed(
    make_app: MakeApp, connect: Connect, connection: str, received: int
) -> None:
    app, upload = make_app(), Upload(*[b"a" * 10] * 5)
    async with connect(app):
        response = await call(app, upload, "/nowhere", headers={"connection": connection})
    assert (response.status_code, upload.received) == (404, received)


async def test_head_is_get_without_a_body(make_app: MakeApp, connect: Connect) -> None:
    async with connect(make_app()) as client:
        for path in (
            *("/", "/health", "/health/ready", "/health/live", "/model", "/model/labels"),
            *("/metrics", "/openapi.json", "/docs", "/docs/swagger-ui.css"),
        ):
            response, expected = await client.head(path), await client.get(path)
            assert (response.status_code, response.content) == (200, b"")
            assert response.headers["content-type"] == expected.headers["content-type"]
            assert path == "/metrics" or response.headers["content-length"] == expected.headers["content-length"]
        assert (await client.post("/model")).headers["allow"] == "GET, HEAD"


async def test_cancels_the_work_of_a_client_that_disconnects(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    app, upload = make_app(), Upload(grey(1))
    engine.gate.clear()
    async with connect(app) as client:
        running = start(app, Upload(grey(0)))
        await engine.entered()
        leaving = start(app, upload)
        await until(lambda: service_of(app).queue_length)
        upload.disconnect()
        assert (await leaving).status_code == 499
        assert (service_of(app).queue_length, service_of(app).images_in_service) == (0, 1)
        engine.gate.set()
        assert (await running).status_code == 200
        assert (await client.post("/predict", content=grey(3), headers=PNG)).status_code == 200
        check_released(app)
    assert engine.batches == [[0], [3]]
    lines = [record.getMessage() for record in caplog.records if record.name == "app.access"]
    assert lines[0].startswith("POST /predict 499 ")


async def test_the_deadline_cancels_a_request_in_the_queue(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, problem: CheckProblem
) -> None:
    app = make_app(request_timeout_s=0.2)
    engine.gate.clear()
    async with connect(app):
        running, waiting = start(app, Upload(grey(0))), start(app, Upload(grey(1)))
        for response in await asyncio.gather(running, waiting):
            problem(response, 504, "deadline-exceeded")
        assert service_of(app).queue_length == 0
        check_released(app)


async def test_the_deadline_applies_to_every_route(make_app: MakeApp, connect: Connect, problem: CheckProblem) -> None:
    app = make_app(request_timeout_s=0.05)

    @app.get("/slow")
    async def slow() -> None:
        await asyncio.Event().wait()

    async with connect(app) as client:
        problem(await client.get("/slow"), 504, "deadline-exceeded")
        assert 'convnext_requests_total{route="/slow",status="504"} 1.0' in await request_counts(client)


async def test_a_timeout_of_a_route_itself_is_not_the_deadline(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app = make_app()

    @app.get("/impatient")
    async def impatient() -> None:
        raise TimeoutError("of something else")

    async with connect(app) as client:
        problem(await client.get("/impatient"), 500, "about:blank")


async def test_while_draining_every_response_closes_its_connection(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, problem: CheckProblem, until: Until
) -> None:
    app = make_app()
    engine.gate.clear()
    async with connect(app) as client:
        running = start(app, Upload(grey(0)))
        await engine.entered()
        assert "connection" not in (await client.get("/health")).headers
        draining = asyncio.create_task(service_of(app).drain(WAIT_S))
        await until(lambda: service_of(app).draining)
        responses = [await client.get(path) for path in ("/health", "/health/live", "/metrics", "/", "/nowhere")]
        responses.append(await client.post("/predict", content=grey(1), headers=PNG))
        problem(responses[-1], 503, "unavailable")
        assert int(responses[-1].headers["retry-after"]) >= 1
        assert 'convnext_requests_total{route="/predict",status="503"} 1.0' in await request_counts(client)
        engine.gate.set()
        responses.append(await running)
        assert responses[-1].status_code == 200
        assert [response.headers.get("connection") for response in responses] == ["close"] * len(responses)
        await draining


async def test_returns_a_valid_request_id(connect: Connect) -> None:
    async with connect() as client:
        for request_id in ("a-b_c:1/2", "x" * 128, "!~"):
            response = await client.get("/health", headers={"x-request-id": request_id})
            assert response.headers["x-request-id"] == request_id


@pytest.mark.parametrize("sent", ["", "two words", "x" * 129, "tab\there", "ü"])
async def test_replaces_any_other_request_id(connect: Connect, sent: str) -> None:
    async with connect() as client:
        headers = {b"x-request-id": sent.encode()}
        ids = [(await client.get("/health", headers=headers)).headers["x-request-id"] for _ in range(2)]
    assert sent not in ids
    assert ids[0] != ids[1]
    assert [len(request_id) for request_id in ids] == [32, 32]


async def test_an_unexpected_error_is_a_problem_that_does_not_reveal_its_cause(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app = make_app()

    @app.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("secret")

    async with connect(app) as client:
        assert "secret" not in problem(await client.get("/broken"), 500, "about:blank")
        assert 'convnext_requests_total{route="/broken",status="500"} 1.0' in await request_counts(client)


async def test_a_request_without_enough_memory_gets_a_503(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app = make_app()

    @app.get("/large")
    async def large() -> None:
        raise MemoryError

    async with connect(app) as client:
        assert "memory" in problem(await client.get("/large"), 503, "unavailable")


async def test_an_error_after_the_response_has_begun_reaches_the_server(make_app: MakeApp) -> None:
    app = make_app()

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("too late for another status")

    app.mount("/broken", broken)
    with pytest.raises(ZeroDivisionError):
        await call(app, Upload(b""), "/broken/", method="GET")


async def test_a_request_that_the_server_cancels_gets_a_503_and_releases_everything(
    make_app: MakeApp, connect: Connect
) -> None:
    app, upload = make_app(), Upload(b"half", complete=False)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async with connect(app):
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": []}
        task = asyncio.ensure_future(app(scope, upload.receive, send))
        await upload.exhausted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        check_released(app)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["type"]) == (503, "unavailable")
