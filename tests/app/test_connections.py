"""Connections whose client is slow, sends no HTTP, sends too much or does not read, and valid requests."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import h11
import pytest
import uvicorn
from uvicorn.server import ServerState

from app.api.early_rejection import Rejection
from app.connections import MAX_HEADER_BYTES, ConnectionMonitor, Protocol

pytestmark = pytest.mark.anyio

WAIT_S = 30
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
ASGI = Callable[[Any, Any, Any], Awaitable[None]]  # Any: ASGI's scope, receive and send


async def echo_length(_scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
    """Responds with the length of the body."""
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await respond(send, b"%d" % length)


async def respond(send: Any, body: bytes) -> None:  # Any: ASGI
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(
    app: ASGI = echo_length,
    *,
    timeout_s: float = WAIT_S,
    max_connections: int = 100,
    reject_early: Callable[[bytes], Rejection | None] | None = None,
) -> AsyncIterator[Connect]:
    """Runs a server of ``app``; returns a function that opens a connection to it."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        limit_concurrency=max_connections + 1,
    )
    config.load()
    state = ServerState()
    monitor = ConnectionMonitor(cast(set[Protocol], state.connections), timeout_s)
    task = asyncio.create_task(monitor.run())
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: Protocol(config, state, {}, reject_early=reject_early), "127.0.0.1", 0
    )

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writers.append(writer)
        return reader, writer

    try:
        async with asyncio.timeout(WAIT_S):
            yield connect
    finally:
        task.cancel()
        for writer in writers:
            writer.close()
        server.close()


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    headers = await reader.readuntil(b"\r\n\r\n")
    lines = headers.lower().split(b"\r\n")
    length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
    return int(headers.split()[1]), await reader.readexactly(length)


async def read_until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:  # closed with unread data
        return b""


@pytest.mark.parametrize("sent", [b"", b"GE", b"GET / HTTP/1.1\r\nHost: loc", REQUEST[:-2]])
async def test_headers_that_do_not_arrive_in_time_get_a_408(sent: bytes) -> None:
    async with serving(timeout_s=0.1) as connect:
        reader, writer = await connect()
        writer.write(sent)
        status, body = await read_response(reader)
        assert (status, json.loads(body)["type"]) == (408, "invalid-request")
        assert await read_until_closed(reader) == b""


async def test_the_second_request_of_a_connection_has_a_deadline_too() -> None:
    async with serving(timeout_s=0.1) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")
        writer.write(REQUEST[:10])
        assert (await read_response(reader))[0] == 408


async def test_the_rest_of_a_body_has_a_deadline_after_the_response() -> None:
    async def respond_early(_scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
        await respond(send, b"early")

    async with serving(respond_early, timeout_s=0.1) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
        assert await read_response(reader) == (200, b"early")
        assert await read_until_closed(reader) == b""


async def test_the_deadline_of_connections_does_not_apply_to_a_request_in_progress() -> None:
    started, gate = asyncio.Event(), asyncio.Event()

    async def held(_scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
        started.set()
        await gate.wait()
        await respond(send, b"held")

    async with serving(held, timeout_s=0.05) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        await started.wait()
        idle_reader, _ = await connect()
        assert (await read_response(idle_reader))[0] == 408  # the deadline of both connections has passed
        gate.set()
        assert await read_response(reader) == (200, b"held")


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_headers_over_the_limit_get_a_431(start: bytes) -> None:
    endless = b"a: b\r\n" if start.endswith(b"\n") else b"aaaaaa"
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(start + endless * (MAX_HEADER_BYTES // len(endless) + 1))
        status, body = await read_response(reader)
        assert (status, json.loads(body)["status"]) == (431, 431)
        assert await read_until_closed(reader) == b""


async def test_trailers_over_the_limit_close_the_connection() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        writer.write(b"trailer: x\r\n" * (2 * MAX_HEADER_BYTES // 12))
        assert (await read_response(reader))[0] == 431
        assert await read_until_closed(reader) == b""


async def test_large_headers_and_a_larger_body_are_accepted() -> None:
    body = b"x" * (4 * MAX_HEADER_BYTES)
    headers = b"POST / HTTP/1.1\r\nHost: a\r\nX: %s\r\nContent-Length: %d\r\n\r\n" % (b"a" * 60_000, len(body))
    async with serving() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(headers + body)
            assert await read_response(reader) == (200, b"%d" % len(body))


@pytest.mark.parametrize(
    "sent", [b"hello\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], ids=["text", "TLS"]
)
async def test_data_that_is_not_http_gets_a_400(sent: bytes) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(sent)
        status, body = await read_response(reader)
        assert (status, json.loads(body)["type"]) == (400, "invalid-request")
        assert await read_until_closed(reader) == b""


async def test_an_error_inside_a_body_is_reported_at_once() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nnot a chunk\r\n")
        assert (await read_response(reader))[0] == 400


async def test_pipelined_requests_are_answered_in_order_and_not_read_ahead() -> None:
    requests = 2000
    async with serving() as connect:
        reader, writer = await connect()

        async def write() -> None:
            for number in range(requests):
                writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % number + b"x" * number)
                await writer.drain()

        task = asyncio.create_task(write())
        for number in range(requests):
            assert await read_response(reader) == (200, b"%d" % number)
        await task


async def test_an_upgrade_to_http2_is_declined_and_the_body_is_read() -> None:
    headers = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    async with serving() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\n" + headers + b"Content-Length: 5\r\n\r\nabcde")
            assert await read_response(reader) == (200, b"5")


async def test_a_client_that_does_not_read_is_disconnected() -> None:
    ended = asyncio.Event()

    async def large(_scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
        headers = [(b"content-length", b"%d" % (64 << 20))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for _ in range(64):
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        ended.set()

    async with serving(large, timeout_s=0.2) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        await ended.wait()  # the application can send everything once the connection is closed
        assert len(await read_until_closed(reader)) < 64 << 20


async def test_connections_over_the_limit_get_a_503_until_others_are_closed() -> None:
    async with serving(max_connections=2) as connect:
        first, second = await connect(), await connect()
        for reader, writer in (first, second):
            writer.write(REQUEST)
            assert await read_response(reader) == (200, b"0")
        reader, _ = await connect()
        headers = await reader.readuntil(b"\r\n\r\n")
        assert headers.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in headers
        assert json.loads(await read_until_closed(reader))["type"] == "overloaded"
        first[1].close()
        await first[1].wait_closed()
        while True:
            reader, writer = await connect()
            writer.write(REQUEST)
            try:
                status, _ = await read_response(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                continue
            if status == 200:
                break


async def test_responses_conform_to_http() -> None:
    """h11's client parses the response to a protocol error."""
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"hello\r\n\r\n")
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(await read_until_closed(reader))
        response = client.next_event()
        assert isinstance(response, h11.Response)
        assert isinstance(client.next_event(), h11.Data)
        assert isinstance(client.next_event(), h11.EndOfMessage)


REJECTED = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"


class Busy:
    """Rejects every POST until it is ``free``; ``size`` is that of the request, None to close the connection."""

    def __init__(self, size: int | None) -> None:
        self.free = False
        self.asked = 0
        self.called = asyncio.Event()
        self._rejection = Rejection(REJECTED, size)

    def __call__(self, _data: bytes) -> Rejection | None:
        self.asked += 1
        self.called.set()
        return None if self.free else self._rejection


async def test_a_connection_is_used_again_after_an_early_rejection_whose_body_is_discarded() -> None:
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + b"POST " * 40_000
    busy = Busy(len(request))
    async with serving(reject_early=busy) as connect:
        reader, writer = await connect()
        for number in range(3):
            writer.write(request[:100])
            assert await read_response(reader) == (503, b"busy")
            for start in range(100, len(request), 5000):
                writer.write(request[start : start + 5000])
            assert busy.asked == number + 1
        busy.free = True
        writer.write(request)
        assert await read_response(reader) == (200, b"200000")
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")


async def test_only_a_post_is_rejected_early_and_only_between_requests() -> None:
    busy = Busy(None)
    busy.free = True
    async with serving(reject_early=busy) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        await busy.called.wait()
        busy.free = False
        writer.write(b"POST / HTT")
        assert await read_response(reader) == (200, b"10")
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")
        assert busy.asked == 1


async def test_an_early_rejection_can_end_the_connection_while_the_client_still_sends() -> None:
    async with serving(reject_early=Busy(None), timeout_s=0.5) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await read_response(reader) == (503, b"busy")
        assert await reader.read() == b""
        for _ in range(10):
            writer.write(b"5\r\nPOST \r\n" * 1000)
            await writer.drain()
        with suppress(ConnectionError):
            while True:  # until the deadline has passed
                writer.write(b"5\r\nPOST \r\n")
                await writer.drain()
