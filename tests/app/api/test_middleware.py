"""The limits on bodies, arriving whole, in chunks, slowly or never; and the record of each request."""

import asyncio
import json
import logging

import httpx
import pytest

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


def parts(*bodies: bytes, then=None):
    """A ``receive`` that gives body after body, all but the last of ``more_body``, and then what ``then`` gives."""
    messages = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    if then is None:
        messages[-1]["more_body"] = False

    async def receive():
        if messages:
            return messages.pop(0)
        return await (then or asyncio.Event().wait)()

    return receive


def as_response(answer) -> httpx.Response:
    status, headers, body = answer
    return httpx.Response(status, headers=headers, content=body)


async def test_an_announced_body_over_the_limit_is_not_read(connect, call, problem):
    async def receive():
        pytest.fail("the body was read")

    async with connect(max_upload_bytes=1000) as client:
        for length in ("1001", "9" * 19):
            answer = as_response(await call(client.app, receive, headers=PNG | {"content-length": length}))
            assert "1000 bytes" in problem(answer, 413, "upload-too-large")


@pytest.mark.parametrize(
    "headers",
    [PNG, PNG | {"content-length": "9" * 5000}, {"content-type": "multipart/form-data; boundary=x"}],
    ids=["raw", "a length beyond reason", "multipart"],
)
async def test_an_unannounced_body_is_stopped_at_the_limit(connect, call, problem, headers):
    async def never():
        pytest.fail("more was read than the limit allows")

    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    async with connect(max_upload_bytes=1000) as client:
        receive = parts(head, b"a" * 600, b"a" * 600, then=never)
        problem(as_response(await call(client.app, receive, headers=headers)), 413, "upload-too-large")


async def test_a_body_of_just_the_limit_is_admitted(connect, grey, problem):
    data = grey(4)
    async with connect(max_upload_bytes=len(data)) as client:
        assert (await client.post("/predict", content=data, headers=PNG)).status_code == 200
        problem(await client.post("/predict", content=data + b"\0", headers=PNG), 413, "upload-too-large")


async def test_a_chunked_body_over_the_limit_is_refused_over_http(connect, problem):
    async def chunks():
        for _ in range(5):
            yield b"a" * 300

    async with connect(max_upload_bytes=1000) as client:
        problem(await client.post("/predict", content=chunks(), headers=PNG), 413, "upload-too-large")


async def test_a_body_that_does_not_arrive_is_given_up_at_the_deadline(connect, call, problem):
    async with connect(request_timeout_s=0.05) as client:
        receive = parts(b"\x89PNG", then=asyncio.Event().wait)
        problem(as_response(await call(client.app, receive, headers=PNG)), 504, "deadline-exceeded")


async def test_all_bodies_together_have_a_limit_too(connect, call, grey, problem):
    arrived, disconnected = asyncio.Event(), asyncio.Event()

    async def leave():
        arrived.set()
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async with connect(max_buffered_bytes=1500, max_upload_bytes=1500) as client:
        first = asyncio.ensure_future(call(client.app, parts(b"a" * 1400, then=leave), headers=PNG))
        await arrived.wait()
        refused = as_response(await call(client.app, parts(b"a" * 200), headers=PNG))
        problem(refused, 503, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        disconnected.set()
        assert (await first)[0] == 499
        for _ in range(10):  # what has gone is counted no more
            assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_a_client_that_leaves_takes_its_work_with_it(connect, call, engine, grey, until):
    left = asyncio.Event()

    async def leave():
        await left.wait()
        return {"type": "http.disconnect"}

    async def upload_and_leave(messages=None):
        return messages.pop() if messages else await leave()

    engine.gate.clear()
    async with connect() as client:
        service = client.app.state.context.service
        running = asyncio.ensure_future(client.post("/predict", content=grey(0), headers=PNG))
        await engine.entered()
        whole = [{"type": "http.request", "body": grey(1), "more_body": False}]
        leaving = asyncio.ensure_future(call(client.app, lambda: upload_and_leave(whole), headers=PNG))
        await until(lambda: service.queue_length)  # decoded, and in the queue
        left.set()
        assert (await leaving)[0] == 499
        await until(lambda: service.queue_length == 0)
        engine.gate.set()
        assert (await running).status_code == 200
        assert (await client.post("/predict", content=grey(3), headers=PNG)).status_code == 200
    assert engine.batches == [[0], [3]]


async def test_a_client_that_leaves_amid_its_body_is_no_error(connect, call, caplog):
    async def gone():
        return {"type": "http.disconnect"}

    async with connect() as client:
        for content_type in ("image/png", "multipart/form-data; boundary=x"):
            status, _, _ = await call(client.app, parts(b"--x\r\n", then=gone), headers={"content-type": content_type})
            assert status == 499
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_sane_request_id_comes_back(connect):
    async with connect() as client:
        response = await client.get("/health", headers={"x-request-id": "a-b_c:1/2"})
    assert response.headers["x-request-id"] == "a-b_c:1/2"


@pytest.mark.parametrize("asked", ["", "two words", "x" * 129, "tab\there", "ü"])
async def test_any_other_request_id_is_replaced(connect, asked):
    async with connect() as client:
        ids = [
            (await client.get("/health", headers={"x-request-id": asked.encode()})).headers["x-request-id"]
            for _ in range(2)
        ]
    assert asked not in ids
    assert ids[0] != ids[1]
    assert all(len(one) == 32 for one in ids)


async def test_each_request_is_logged_with_its_id_and_problem(connect, caplog):
    caplog.set_level(logging.INFO, "app.access")
    async with connect() as client:
        await client.post("/predict", content=b"words", headers=PNG | {"x-request-id": "mine"})
    [record] = [record for record in caplog.records if record.name == "app.access"]
    assert (record.request_id, record.problem) == ("mine", "unsupported-media-type")
    assert record.getMessage().startswith("POST /predict 415 ")


async def test_a_path_that_is_none_of_ours_is_a_problem_too(connect, problem):
    async with connect() as client:
        problem(await client.get("/nowhere"), 404, "about:blank")
        response = await client.get("/predict")
        problem(response, 405, "about:blank")
        assert response.headers["allow"] == "POST"


async def test_an_error_that_nobody_foresaw_is_a_problem_too(make_app, connect, problem):
    app = make_app()

    @app.get("/broken")
    async def broken():
        raise ZeroDivisionError("a secret of the house")

    async with connect(app) as client:
        detail = problem(await client.get("/broken"), 500, "about:blank")
        assert "secret" not in detail
        metrics = (await client.get("/metrics")).text
    assert 'convnext_requests_total{route="/broken",status="500"} 1.0' in metrics


async def test_a_failure_amid_an_answer_is_the_servers_to_see(make_app, call):
    app = make_app()

    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError("too late for another status")

    app.mount("/broken", broken)
    with pytest.raises(ZeroDivisionError):
        await call(app, parts(b""), path="/broken/", method="GET")


async def test_the_lifespan_passes_through(make_app):
    app, sent = make_app(), []
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive():
        return messages.pop(0)

    async def send(message):
        sent.append(message["type"])

    await app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_a_request_that_the_server_cancels_is_told_so(make_app):
    reading = asyncio.Event()

    async def never():
        reading.set()
        await asyncio.Event().wait()

    sent = []

    async def send(message):
        sent.append(message)

    app = make_app()
    async with app.router.lifespan_context(app):
        headers = [(name.encode(), value.encode()) for name, value in PNG.items()]
        scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "headers": headers}
        task = asyncio.ensure_future(app(scope, parts(b"half", then=never), send))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (sent[0]["status"], json.loads(sent[1]["body"])["type"]) == (503, "unavailable")
