"""Limits of connections: clients that are slow, send too much or do not read, and too many of them."""

import asyncio
import gc
import json
import weakref
from typing import Any

import pytest

from app.http.connections import MAX_HEADER_BYTES, MAX_TARGET_BYTES
from tests.app.http.raw_connections import (
    REQUEST,
    Held,
    RecordedTransport,
    build_protocol,
    read_response,
    read_until_closed,
    respond,
    respond_early,
    serving,
)

pytestmark = pytest.mark.anyio


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
    async with serving(respond_early, timeout_s=0.1) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n123")
        assert await read_response(reader) == (200, b"early")
        assert await read_until_closed(reader) == b""


async def test_the_deadline_of_connections_does_not_apply_to_a_request_in_progress() -> None:
    app = Held()
    async with serving(app, timeout_s=0.05) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        await app.started.wait()
        idle_reader, _ = await connect()
        assert (await read_response(idle_reader))[0] == 408  # the deadline of both connections has passed
        app.gate.set()
        assert await read_response(reader) == (200, b"0")


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\n"])
async def test_headers_over_the_limit_get_a_431(start: bytes) -> None:
    endless = b"a: b\r\n" if start.endswith(b"\n") else b"aaaaaa"
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(start + endless * (MAX_HEADER_BYTES // len(endless) + 1))
        status, body = await read_response(reader)
        assert (status, json.loads(body)["status"]) == (431, 431)
        assert await read_until_closed(reader) == b""


async def test_headers_over_the_limit_get_a_431_even_if_they_arrive_at_once() -> None:
    protocol, transport = build_protocol(), RecordedTransport()
    protocol.connection_made(transport)
    protocol.data_received(REQUEST[:-2] + b"a: b\r\n" * MAX_HEADER_BYTES + b"\r\n")
    assert transport.sent.startswith(b"HTTP/1.1 431 ")
    assert transport.is_closing()


async def test_headers_over_the_limit_that_follow_a_body_get_a_431() -> None:
    body = b"a" * 100_000
    async with serving() as connect:
        reader, writer = await connect()
        first = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(first + body + REQUEST[:-2] + b"X: %s\r\n\r\n" % (b"a" * 2 * MAX_HEADER_BYTES))
        assert await read_response(reader) == (200, b"100000")
        assert (await read_response(reader))[0] == 431


async def test_a_url_over_the_limit_gets_a_414() -> None:
    async with serving() as connect:
        for length, expected in ((MAX_TARGET_BYTES, 200), (MAX_TARGET_BYTES + 1, 414)):
            reader, writer = await connect()
            writer.write(b"GET /?%s HTTP/1.1\r\nHost: a\r\n\r\n" % (b"a" * (length - 2)))
            assert (await read_response(reader))[0] == expected


async def test_trailers_over_the_limit_get_a_431() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n")
        writer.write(b"trailer: x\r\n" * (2 * MAX_HEADER_BYTES // 12))
        assert (await read_response(reader))[0] == 431
        assert await read_until_closed(reader) == b""


async def test_large_headers_and_a_larger_body_are_accepted() -> None:
    body = b"x" * (4 * MAX_HEADER_BYTES)
    headers = b"POST / HTTP/1.1\r\nHost: a\r\nX: %s\r\nContent-Length: %d\r\n\r\n" % (b"a" * 30_000, len(body))
    async with serving() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(headers + body)
            assert await read_response(reader) == (200, b"%d" % len(body))


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


async def echo_over_limit(scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
    await respond(send, b"over" if scope["state"].get("over_limit") else b"within")


async def test_the_application_learns_of_connections_over_the_limit_until_others_are_closed() -> None:
    async with serving(echo_over_limit, max_connections=2) as connect:
        first, second, third = await connect(), await connect(), await connect()
        for (reader, writer), expected in ((first, b"within"), (second, b"within"), (third, b"over")):
            writer.write(REQUEST)
            assert await read_response(reader) == (200, expected)
        first[1].close()
        await first[1].wait_closed()
        while True:  # until the server knows
            reader, writer = await connect()
            writer.write(REQUEST)
            if await read_response(reader) == (200, b"within"):
                break


async def test_silent_connections_do_not_keep_probes_out() -> None:
    silent = 50
    async with serving(echo_over_limit, max_connections=2) as connect:
        connections = [await connect() for _ in range(silent)]
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"over")
        headers = await connections[2][0].readuntil(b"\r\n\r\n")  # the oldest above the limit
        assert headers.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nRetry-After: 5\r\n" in headers
        assert json.loads(await read_until_closed(connections[2][0]))["type"] == "overloaded"
        for reader, writer in connections[:2]:
            writer.write(REQUEST)
            assert await read_response(reader) == (200, b"within")


async def test_a_connection_may_be_idle_between_two_requests_for_longer_than_a_request_may_take() -> None:
    async with serving(timeout_s=0.1, keep_alive_s=60) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")
        silent, _ = await connect()
        assert (await read_response(silent))[0] == 408  # the deadline has passed
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")


async def test_an_idle_connection_is_closed_after_the_keep_alive_timeout() -> None:
    async with serving(keep_alive_s=0) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"0")
        assert await read_until_closed(reader) == b""


async def test_a_response_before_the_end_of_the_body_does_not_shorten_the_keep_alive_timeout() -> None:
    async with serving(respond_early, timeout_s=0.1, keep_alive_s=60) as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n1")
        assert await read_response(reader) == (200, b"early")
        writer.write(b"23")
        silent, _ = await connect()
        assert (await read_response(silent))[0] == 408  # the deadline has passed
        writer.write(REQUEST)
        assert await read_response(reader) == (200, b"early")


async def test_a_probe_in_progress_is_not_closed_for_newer_connections() -> None:
    app = Held()
    async with serving(app, max_connections=0) as connect:
        reader, writer = await connect()
        writer.write(REQUEST)
        await app.started.wait()
        silent = [await connect() for _ in range(17)]
        assert (await read_response(silent[0][0]))[0] == 503
        app.gate.set()
        assert await read_response(reader) == (200, b"0")


async def test_nothing_is_kept_of_a_connection_that_was_reset() -> None:
    protocol, transport = build_protocol(), RecordedTransport()
    protocol.connection_made(transport)
    protocol.data_received(REQUEST)
    await transport.answered.wait()
    protocol.connection_lost(ConnectionResetError())
    kept = weakref.ref(protocol)
    del protocol
    gc.collect()
    assert kept() is None
