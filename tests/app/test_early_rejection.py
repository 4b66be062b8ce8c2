"""Connections on which a POST is rejected before it is parsed."""

import asyncio
from contextlib import suppress

import pytest

from app.api.early_rejection import Rejection
from tests.app.http.raw_connections import (
    REQUEST,
    read_response,
    read_until_closed,
    serving,
)

pytestmark = pytest.mark.anyio

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


async def test_a_rejected_request_whose_body_does_not_arrive_ends_without_a_second_response() -> None:
    async with serving(reject_early=Busy(1000), timeout_s=0.1) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n")
        assert await read_response(reader) == (503, b"busy")
        assert await read_until_closed(reader) == b""
