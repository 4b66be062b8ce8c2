"""The load generator against servers of the standard library."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks.service.load import Report, closed_loop, make_requests, open_loop, send_in_sequence

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(talk: Talk) -> AsyncIterator[str]:
    """The URL of a server that runs ``talk`` on every connection."""
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predict"


async def read_body(reader: asyncio.StreamReader) -> bytes | None:
    """The body of the next request; None if the client closed the connection."""
    try:
        headers = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    lines = headers.lower().split(b"\r\n")
    return await reader.readexactly(next(int(line[15:]) for line in lines if line.startswith(b"content-length:")))


class Recorder:
    """Responds to request number N with ``respond(N)``, and keeps the bodies."""

    def __init__(self, respond: Callable[[int], Awaitable[bytes]]) -> None:
        self.bodies: list[bytes] = []
        self.connections = 0
        self._respond = respond

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while (body := await read_body(reader)) is not None:
            self.bodies.append(body)
            writer.write(await self._respond(len(self.bodies)))
        writer.close()


async def respond_ok(_number: int) -> bytes:
    return OK


async def close_at_once(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.mark.parametrize("multipart", [False, True])
async def test_closed_loop_sends_every_image(multipart: bool) -> None:
    server = Recorder(respond_ok)
    async with listening(server.talk) as url:
        requests = make_requests(url, [b"first image", b"second image"], multipart)
        report = await closed_loop(url, requests, connections=2, seconds=0.2, warmup_s=0.0)
    assert set(report.latencies_s) == {"200"}
    assert report.sent >= report.completed == len(report.latencies_s["200"]) > 2
    for image in (b"first image", b"second image"):
        assert any(image in body if multipart else body == image for body in server.bodies)


async def test_latency_in_open_loop_includes_the_wait_for_a_stalled_server() -> None:
    stall_s = 0.5

    async def respond(number: int) -> bytes:
        if number == 1:
            late: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(stall_s, late.set_result, None)
            await late
        return OK

    async with listening(Recorder(respond).talk) as url:
        requests = make_requests(url, [b"image"], multipart=False)
        report = await open_loop(url, requests, connections=1, rate_per_s=100, seconds=0.4, timeout_s=10)
    assert {outcome: len(latencies) for outcome, latencies in report.latencies_s.items()} == {"200": 40}
    # All 40 are due within about 0.4 s of a stall of 0.5 s: counted from sending, only the first one would be slow.
    assert sum(latency_s > 0.05 for latency_s in report.latencies_s["200"]) > 30
    assert max(report.latencies_s["200"]) >= stall_s - 0.1


async def test_open_loop_reports_rejections_with_their_retry_after() -> None:
    async def respond(number: int) -> bytes:
        return OK if number % 2 else BUSY

    async with listening(Recorder(respond).talk) as url:
        requests = make_requests(url, [b"image"], multipart=False)
        report = await open_loop(url, requests, connections=1, rate_per_s=100, seconds=0.2, timeout_s=10)
    assert {outcome: len(latencies) for outcome, latencies in report.latencies_s.items()} == {"200": 10, "503": 10}
    assert report.retry_after == {"3": 10}


async def test_open_loop_counts_requests_without_response_as_timeouts() -> None:
    released = asyncio.Event()

    async def respond(_number: int) -> bytes:
        await released.wait()
        return OK

    async with listening(Recorder(respond).talk) as url:
        requests = make_requests(url, [b"image"], multipart=False)
        try:
            report = await open_loop(url, requests, connections=2, rate_per_s=100, seconds=0.1, timeout_s=0.2)
        finally:
            released.set()  # since Python 3.12, a server that closes waits for its connections
    assert {outcome: len(latencies) for outcome, latencies in report.latencies_s.items()} == {"timeout": 10}
    assert report.completed == 0


@pytest.mark.parametrize(("keep_alive", "connections"), [(True, 1), (False, 10)])
async def test_open_loop_reuses_connections_unless_told_otherwise(keep_alive: bool, connections: int) -> None:
    server = Recorder(respond_ok)
    async with listening(server.talk) as url:
        requests = make_requests(url, [b"image"], multipart=False)
        await open_loop(url, requests, connections=1, rate_per_s=100, seconds=0.1, timeout_s=10, keep_alive=keep_alive)
    assert server.connections == connections


async def test_open_loop_connects_again_when_the_server_closed_the_connection() -> None:
    connections = []

    async def respond_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        if await read_body(reader) is not None:
            writer.write(OK)
        writer.close()

    async with listening(respond_once) as url:
        requests = make_requests(url, [b""], multipart=False)
        report = await open_loop(url, requests, connections=1, rate_per_s=20, seconds=0.5, timeout_s=10)
    assert sum(map(len, report.latencies_s.values())) == 10  # one sent just as its connection closes is an error
    assert len(report.latencies_s["200"]) > 5
    assert len(connections) > 5


async def test_closed_loop_reports_connection_errors() -> None:
    async with listening(close_at_once) as url:
        report = await closed_loop(url, make_requests(url, [b"image"], multipart=False), 1, 0.2, warmup_s=0.0)
    assert set(report.latencies_s) == {"connection error"}
    assert report.summary()["ok_per_s"] == 0


async def test_sequential_requests_return_status_headers_and_body() -> None:
    async with listening(Recorder(respond_ok).talk) as url:
        [(response, latency_s)] = await send_in_sequence(url, make_requests(url, [b"image"], multipart=True))
    assert (response.status, response.body, response.header("content-length")) == (200, b"ok", "2")
    assert latency_s > 0


def test_generators_that_run_at_the_same_time_add_up() -> None:
    first, second = Report(2.0), Report(2.0)
    first.completed, second.completed = 1, 2
    first.latencies_s["200"] = [0.1]
    second.latencies_s["200"], second.latencies_s["503"] = [0.2, 0.3], [0.4]
    summary = Report.joined([first, second]).summary()
    assert summary["ok_per_s"] == 1.5
    assert {outcome: found["count"] for outcome, found in summary["outcomes"].items()} == {"200": 3, "503": 1}
