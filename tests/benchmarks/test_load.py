"""The load generator against a server of the standard library."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.load import closed_loop, make_requests, open_loop

pytestmark = pytest.mark.anyio

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def serving(answer: Callable[[int], asyncio.Future[None] | None]) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers its request number N once ``answer(N)`` is done; gives its URL and what it read."""
    bodies: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await _head(reader):
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            bodies.append(await reader.readexactly(length))
            gate = answer(len(bodies))
            if gate is not None:
                await gate
            writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict", bodies


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


@pytest.mark.parametrize("multipart", [False, True])
async def test_the_closed_loop_sends_every_photo(multipart):
    async with serving(lambda _number: None) as (url, bodies):
        requests = make_requests(url, [b"first photo", b"second photo"], multipart)
        report = await closed_loop(url, requests, connections=2, seconds=0.2, warmup_s=0.0)
    assert set(report.statuses) == {200}
    assert len(report.latencies) == report.statuses[200] > 2
    for photo in (b"first photo", b"second photo"):
        assert any(photo in body if multipart else body == photo for body in bodies)


async def test_a_stall_counts_for_every_request_that_fell_due_in_it():
    """One connection and a first answer that comes late: the requests due meanwhile waited too, though unsent."""
    stall_s = 0.5
    loop = asyncio.get_running_loop()

    def gate(number: int) -> asyncio.Future[None] | None:
        if number > 1:
            return None
        late: asyncio.Future[None] = loop.create_future()
        loop.call_later(stall_s, late.set_result, None)
        return late

    async with serving(gate) as (url, _bodies):
        requests = make_requests(url, [b"photo"], multipart=False)
        report = await open_loop(url, requests, connections=1, rate=100, seconds=0.4)
    assert report.statuses == {200: 40}
    # All 40 fell due within about 0.4 s of a stall of 0.5 s: sent-time latencies would be long for the first one alone.
    assert sum(latency > 0.05 for latency in report.latencies) > 30
    assert max(report.latencies) >= stall_s - 0.1


async def test_the_open_loop_takes_a_new_connection_where_the_server_ended_the_old_one():
    connections = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        if await _head(reader):
            writer.write(ANSWER)
        writer.close()

    server = await asyncio.start_server(answer_once, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
        report = await open_loop(url, make_requests(url, [b""], False), connections=1, rate=20, seconds=0.5)
    assert sum(report.statuses.values()) == 10  # one sent just as its connection ends is lost, and told
    assert report.statuses[200] > 5
    assert len(connections) > 5


async def test_a_broken_connection_is_reported():
    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"
        report = await closed_loop(url, make_requests(url, [b"photo"], False), 1, 0.2, warmup_s=0.0)
    assert set(report.statuses) == {0}
    assert report.latencies == []
