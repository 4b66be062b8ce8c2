"""The rejection of a POST on its first bytes, whose framing h11 is the reference for."""

import json
import logging
from collections.abc import AsyncIterator

import h11
import pytest
from fastapi import FastAPI

from app.api.early_rejection import EarlyRejection, Rejection
from tests.app.api.asgi import Connect, Grey, MakeApp, Until, Upload, context_of, service_of, start
from tests.app.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

HEADERS = b"POST /predict HTTP/1.1\r\nHost: a\r\n"


@pytest.fixture
async def busy(make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey) -> AsyncIterator[FastAPI]:
    """An application whose only place is taken."""
    app = make_app(max_queue_size=1, max_batch_size=1)
    engine.gate.clear()
    async with connect(app):
        running = start(app, Upload(grey(0)))
        await engine.entered()
        yield app
        engine.gate.set()
        await running


def reject(app: FastAPI, data: bytes) -> Rejection:
    rejection = EarlyRejection(context_of(app))(data)
    assert rejection is not None
    return rejection


def parse(response: bytes) -> tuple[h11.Response, dict[str, object]]:
    """The response as a client reads it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "a"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(response)
    headers, body = client.next_event(), client.next_event()
    assert isinstance(headers, h11.Response)
    assert isinstance(body, h11.Data)
    return headers, json.loads(body.data)


async def test_nothing_is_rejected_while_there_is_room(make_app: MakeApp, connect: Connect) -> None:
    app = make_app()
    assert EarlyRejection(context_of(app))(HEADERS + b"\r\n") is None  # before it starts
    async with connect(app):
        assert EarlyRejection(context_of(app))(HEADERS + b"\r\n") is None


async def test_the_response_is_a_problem_with_the_request_id(busy: FastAPI) -> None:
    data = HEADERS + b"x-request-ID: Mine-1\r\nContent-Length: 5\r\n\r\n"
    response, problem = parse(reject(busy, data).response)
    headers = dict(response.headers)
    assert response.status_code == problem["status"] == 503
    assert problem["type"] == "overloaded"
    assert headers[b"content-type"] == b"application/problem+json"
    assert headers[b"x-request-id"] == b"Mine-1"
    assert int(headers[b"retry-after"]) >= 1
    assert b"connection" not in headers
    other, _ = parse(reject(busy, HEADERS + b"X-Request-ID: a b\r\n\r\n").response)
    assert len(dict(other.headers)[b"x-request-id"]) == 32


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Content-Length: 0\r\n",
        b"content-length:\t123456 \r\nX: Content\r\n",
        b"A: b\r\nCONTENT-LENGTH: 7\r\nC: d\r\n",
    ],
)
async def test_the_size_of_an_ordinary_request_is_what_h11_reads(busy: FastAPI, fields: bytes) -> None:
    data = HEADERS + fields + b"\r\n"
    size = reject(busy, data).request_size
    assert size is not None
    server = h11.Connection(h11.SERVER)
    server.receive_data(data + b"x" * (size - len(data)) + b"GET")
    while not isinstance(server.next_event(), h11.EndOfMessage):
        pass
    assert server.trailing_data[0] == b"GET"


@pytest.mark.parametrize(
    "data",
    [
        HEADERS,
        HEADERS + b"Content-Length: 5",
        b"POST / HTTP/1.0\r\n\r\n",
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\n",
        HEADERS + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEADERS + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEADERS + b"Content-Length: 5, 5\r\n\r\n",
        HEADERS + b"Content-Length: -5\r\n\r\n",
        HEADERS + b"Content-Length : 5\r\n\r\n",
        HEADERS + b"Transfer-Encoding : chunked\r\n\r\n",
        HEADERS + b"X: a\rTransfer-Encoding: chunked\r\n\r\n",
        HEADERS + b"Expect : 100-continue\r\n\r\n",
        HEADERS + b"Content-Length: 1\r\n 5\r\n\r\n",
        HEADERS + b"X: a\nContent-Length: 5\r\n\r\n",
        HEADERS + b"\nContent-Length: 5\r\n\r\n",
        HEADERS + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n",
        HEADERS + b"Connection: close\r\n\r\n",
        HEADERS + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        HEADERS + b"Content-Length: 1\r\n\r\n1POST /predict HTTP/1.1\r\n",
    ],
)
async def test_a_request_whose_end_is_in_doubt_ends_the_connection(busy: FastAPI, data: bytes) -> None:
    rejection = reject(busy, data)
    assert rejection.request_size is None
    assert dict(parse(rejection.response)[0].headers)[b"connection"] == b"close"


async def test_while_draining_the_connection_ends(busy: FastAPI) -> None:
    await service_of(busy).drain(0.01)
    rejection = reject(busy, HEADERS + b"\r\n")
    assert rejection.request_size is None
    assert parse(rejection.response)[1]["type"] == "unavailable"


async def test_browsers_get_the_response_of_the_application(busy: FastAPI) -> None:
    assert EarlyRejection(context_of(busy))(HEADERS + b"ORIGIN: https://a.example\r\n\r\n") is None


async def test_rejections_are_counted_and_share_a_log_line(
    busy: FastAPI, connect: Connect, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    caplog.set_level(logging.INFO, "app.api.early_rejection")
    early = EarlyRejection(context_of(busy), log_interval_s=0.05)
    for _ in range(20):
        early(HEADERS + b"\r\n")
    await until(lambda: caplog.messages)
    early(HEADERS + b"\r\n")
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[0].startswith("rejected 20 requests")
    assert caplog.messages[1].startswith("rejected 1 requests")
