"""Pipelined requests: answered in order, and neither parsed nor read ahead."""

import asyncio
from typing import Any

import pytest

from tests.app.http.raw_connections import (
    ASGI,
    REQUEST,
    Held,
    read_response,
    read_until_closed,
    respond,
    serving,
)

pytestmark = pytest.mark.anyio

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"


MAX_BUFFERED = 16 << 20  # bytes, most of them in the buffers of the system


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def test_pipelined_requests_get_their_responses_in_order() -> None:
    requests = 2000
    async with serving() as connect:
        reader, writer = await connect()

        async def write() -> None:
            for number in range(requests):
                writer.write(POST + b"Content-Length: %d\r\n\r\n" % number + b"x" * number)
                await writer.drain()

        task = asyncio.create_task(write())
        for number in range(requests):
            assert await read_response(reader) == (200, b"%d" % number)
        await task


class Flood:
    """A client that sends pipelined requests for as long as the server reads them."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.sent_bytes = 0
        self._socket = writer.get_extra_info("socket").dup()
        self._requests = memoryview(REQUEST * 10_000)

    def send(self) -> None:
        """Fills the buffers of the connection."""
        while True:
            start = self.sent_bytes % len(REQUEST)
            try:
                self.sent_bytes += self._socket.send(self._requests[start:])
            except BlockingIOError:
                return


@pytest.mark.parametrize(
    "first", [[REQUEST], [POST + b"Content-Length: 1\r\n\r\n", b"x"], [CHUNKED, b"1\r\nx\r\n0\r\n\r\n"]]
)
async def test_pipelined_requests_are_not_read_ahead(first: list[bytes]) -> None:
    app = Held()
    async with serving(app) as connect:
        reader, writer = await connect()
        *start, end = first
        for part in start:
            writer.write(part)
            await app.started.wait()
        writer.write(end)
        await app.started.wait()
        flood = Flood(writer)
        for _ in range(20):
            flood.send()
            await answered(connect)
        assert flood.sent_bytes < MAX_BUFFERED
        app.gate.set()
        assert await read_response(reader) == (200, b"1" if start else b"0")
        for _ in range(2000):
            assert await read_response(reader) == (200, b"0")


async def test_no_more_is_read_ahead_if_an_application_waits_for_a_disconnect() -> None:
    """uvicorn reads on whenever the application asks for a message."""

    async def watch(_scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
        await receive()
        watcher = asyncio.create_task(receive())
        await asyncio.sleep(0)
        watcher.cancel()
        await respond(send, b"")

    async with serving(watch) as connect:
        reader, writer = await connect()
        flood = Flood(writer)
        for _ in range(2000):
            flood.send()
            await read_response(reader)
        assert flood.sent_bytes < MAX_BUFFERED


async def answered(connect: Any) -> None:  # Any: the function that ``serving`` yields
    """Returns once the server has handled what it received before: a request on another connection is invalid."""
    reader, writer = await connect()
    writer.write(b"hello\r\n\r\n")
    assert (await read_response(reader))[0] == 400


@pytest.mark.parametrize(
    ("sent", "responses"),
    [
        (REQUEST + b"hello\r\n\r\n", [200, 400]),
        (REQUEST + REQUEST + b"hello\r\n\r\n", [200, 200, 400]),
        (REQUEST + CHUNKED + b"not a chunk\r\n", [200, 400]),
        (REQUEST + CHUNKED + b"1\r\na\r\n" + b"not a chunk\r\n", [200, 400]),
        (REQUEST + b"GET / HTTP/1.1\r\n\r\n" + REQUEST, [200, 400]),
        (REQUEST + b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", [200, 400]),
    ],
)
async def test_an_error_in_a_pipelined_request_is_reported_after_the_other_responses(
    sent: bytes, responses: list[int]
) -> None:
    app = Held()
    async with serving(app) as connect:
        reader, writer = await connect()
        writer.write(sent)
        await app.started.wait()
        await answered(connect)
        app.gate.set()
        assert [(await read_response(reader))[0] for _ in responses] == responses
        assert await read_until_closed(reader) == b""


async def test_a_request_learns_that_its_client_has_left_even_if_another_one_is_pipelined() -> None:
    started, left = asyncio.Event(), asyncio.Event()

    async def wait_for_disconnect(_scope: Any, receive: Any, _send: Any) -> None:  # Any: ASGI
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    app: ASGI = wait_for_disconnect
    async with serving(app) as connect:
        _, writer = await connect()
        writer.write(REQUEST + REQUEST)
        await started.wait()
        writer.close()
        await left.wait()
