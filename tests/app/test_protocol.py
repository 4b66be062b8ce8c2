"""Connections that never send a whole head are answered and closed; whole requests are served as before."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from uvicorn.server import ServerState

from app.protocol import MAX_HEAD_BYTES, limited_to

pytestmark = pytest.mark.anyio

PATIENCE_S = 30
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@asynccontextmanager
async def connected(
    head_timeout_s: float, gate: asyncio.Event | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to an application that answers ``ok`` once ``gate`` is set."""

    async def app(scope, receive, send):
        if gate is not None:
            await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    config.load()
    protocol, state = limited_to(head_timeout_s), ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
    async with server, asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        try:
            yield reader, writer
        finally:
            writer.close()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return int(head.split()[1]), await reader.readexactly(length)


@pytest.mark.parametrize("sent", [b"", b"GE", b"GET / HTTP/1.1\r\nHost: loc", REQUEST[:-2]])
async def test_a_head_that_does_not_arrive_in_time_is_answered_and_the_connection_closed(sent):
    async with connected(0.1) as (reader, writer):
        writer.write(sent)
        status, body = await read_answer(reader)
        assert (status, json.loads(body)["title"]) == (408, "Request Timeout")
        assert await reader.read() == b""


async def test_the_second_head_of_a_connection_has_its_deadline_too():
    async with connected(0.1) as (reader, writer):
        writer.write(REQUEST)
        assert await read_answer(reader) == (200, b"ok")
        writer.write(REQUEST[:10])
        status, _body = await read_answer(reader)
        assert status == 408
        assert await reader.read() == b""


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n"])
async def test_a_head_without_end_is_refused(start):
    endless = b"a: b\r\n" if start.endswith(b"\n") else b"aaaaaa"
    async with connected(PATIENCE_S) as (reader, writer):
        writer.write((start + endless * MAX_HEAD_BYTES)[: MAX_HEAD_BYTES + 1])
        status, body = await read_answer(reader)
        assert (status, json.loads(body)["status"]) == (431, 431)
        assert await reader.read() == b""


async def test_a_large_head_and_a_larger_body_are_served():
    body = b"x" * (4 * MAX_HEAD_BYTES)
    head = b"POST / HTTP/1.1\r\nX: %s\r\nContent-Length: %d\r\n\r\n" % (b"a" * (MAX_HEAD_BYTES - 1000), len(body))
    async with connected(PATIENCE_S) as (reader, writer):
        for _ in range(2):
            writer.write(head + body)
            assert await read_answer(reader) == (200, b"ok")


async def test_what_is_not_http_is_a_problem():
    async with connected(PATIENCE_S) as (reader, writer):
        writer.write(b"hello\r\n\r\n")
        status, body = await read_answer(reader)
        assert (status, json.loads(body)["type"]) == (400, "invalid-request")
        assert await reader.read() == b""


@pytest.mark.parametrize("rest", [b"\r\n", b"x"], ids=["an empty line", "what is left of a body"])
async def test_what_follows_an_answer_keeps_no_connection_open(rest):
    async with connected(0.1) as (reader, writer):
        length = 0 if rest == b"\r\n" else 10
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % length)  # answered before its body is there
        assert await read_answer(reader) == (200, b"ok")
        writer.write(rest)
        status, _body = await read_answer(reader)
        assert status == 408
        assert await reader.read() == b""


@pytest.mark.parametrize(
    "behind",
    [REQUEST[:10], b"nonsense\r\n\r\n"],
    ids=["unfinished", "not HTTP"],
)
async def test_an_answer_on_its_way_outlives_what_comes_behind_it(behind):
    gate = asyncio.Event()
    body = b"x" * (MAX_HEAD_BYTES - 1000)  # more than that is not read before it is asked for
    async with connected(0.05, gate) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body + behind)
        asyncio.get_running_loop().call_later(0.2, gate.set)
        assert await read_answer(reader) == (200, b"ok")
        with contextlib.suppress(ConnectionResetError):  # closed with data unread
            assert await reader.read() == b""
