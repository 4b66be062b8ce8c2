"""HTTP/1.1 as RFC 9112 defines it: what is rejected, pipelined requests, and upgrades that are declined."""

import json
from typing import Any

import h11
import httpx
import pytest

from tests.app.http.raw_connections import (
    read_response,
    read_until_closed,
    respond,
    respond_early,
    serving,
)

pytestmark = pytest.mark.anyio

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"hello\r\n\r\n", id="text"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two Hosts"),
        pytest.param(b"GET /\r\n\r\n", id="HTTP/0.9"),
        pytest.param(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", id="CONNECT"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", id="path"),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", id="FTP"),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n" + UPGRADE + b"\r\n", id="FTP, with an upgrade"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", id="a Host with a space"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", id="a Host with a path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", id="a Host with a user"),
        pytest.param(b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n" + UPGRADE + b"\r\n", id="RTSP"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n", id="space before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", id="null byte"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n", id="CR without LF"),
        pytest.param(POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"),
        pytest.param(POST + b"Content-Length: +1\r\n\r\na", id="length with a sign"),
        pytest.param(POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="both"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n", id="both, chunked first"
        ),
        pytest.param(POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", id="vertical tab"),
        pytest.param(CHUNKED + b"not a chunk\r\n", id="chunk"),
        pytest.param(CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", id="chunk size 0x1"),
        pytest.param(CHUNKED + b"1\r\nab\r\n0\r\n\r\n", id="chunk longer than its size"),
    ],
)
async def test_invalid_and_ambiguous_requests_get_a_400(sent: bytes) -> None:
    """h11's client parses the response."""
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(sent)
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
        client.send(h11.EndOfMessage())
        client.receive_data(await read_until_closed(reader))
        client.receive_data(b"")
        response, body, end = client.next_event(), client.next_event(), client.next_event()
        assert isinstance(response, h11.Response)
        assert isinstance(body, h11.Data)
        assert (response.status_code, json.loads(body.data)["type"]) == (400, "invalid-request")
        assert isinstance(end, h11.EndOfMessage)
        assert isinstance(client.next_event(), h11.ConnectionClosed)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, id="HTTP/2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\nHost: a\r\n\r\nSM\r\n\r\n", 505, id="HTTP/2"),
        pytest.param(POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, id="gzip"),
        pytest.param(
            POST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501, id="two codings"
        ),
        pytest.param(POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501, id="identity"),
    ],
)
async def test_versions_and_transfer_codings_that_are_not_supported_are_named_by_the_status(
    sent: bytes, status: int
) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(sent)
        assert (await read_response(reader))[0] == status
        assert await read_until_closed(reader) == b""


async def test_a_body_in_thousands_of_tiny_chunks_gets_a_400() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(CHUNKED + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n")
        assert await read_response(reader) == (200, b"500")
        writer.write(CHUNKED + (b"80\r\n" + b"x" * 128 + b"\r\n") * 5000 + b"0\r\n\r\n")
        assert await read_response(reader) == (200, b"640000")
        writer.write(CHUNKED + b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n")
        assert (await read_response(reader))[0] == 400


@pytest.mark.parametrize("target", [b"/b/c?d=e", b"/b?c=http://d/e?f", b"/", b"?b=/c", b""])
@pytest.mark.parametrize("rest", [b"1.1\r\nHost: a\r\n\r\n", b"1.0\r\n\r\n"])
async def test_a_target_may_be_a_whole_url(rest: bytes, target: bytes) -> None:
    async def echo_path(scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
        await respond(send, scope["http_version"].encode() + scope["path"].encode() + b"?" + scope["query_string"])

    async with serving(echo_path) as connect:
        reader, writer = await connect()
        writer.write(b"GET http://a:80" + target + b" HTTP/" + rest)
        url = httpx.URL("http://a:80" + target.decode())
        assert await read_response(reader) == (200, rest[:3] + url.path.encode() + b"?" + url.query)


@pytest.mark.parametrize("host", [b"a", b"a_b.c:80", b"[::1]:80", b"[fe80::1%25eth0]", b"%C3%A9", b"", b"\xc3\xa9"])
async def test_any_host_that_clients_send_is_accepted(host: bytes) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")
        assert (await read_response(reader))[0] == 200


async def echo_headers(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
    while (await receive())["more_body"]:
        pass
    await respond(send, b",".join(b"%s=%s" % header for header in scope["headers"]))


async def test_an_empty_line_before_a_request_is_ignored() -> None:
    async with serving() as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(b"\r\nPOST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab")
            assert await read_response(reader) == (200, b"2")


async def test_trailers_are_not_headers() -> None:
    async with serving(echo_headers) as connect:
        reader, writer = await connect()
        for _ in range(2):
            writer.write(CHUNKED + b"1\r\na\r\n0\r\nAuthorization: Bearer secret\r\n\r\n")
            assert await read_response(reader) == (200, b"host=a,transfer-encoding=chunked")


@pytest.mark.parametrize(("version", "asks"), [(b"1.0", False), (b"1.1", True)])
async def test_only_http_1_1_is_asked_to_continue(version: bytes, asks: bool) -> None:
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(b"POST / HTTP/" + version + b"\r\nHost: a\r\nExpect: 100-continue \r\nContent-Length: 1\r\n\r\n")
        if asks:
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"x")
        assert await read_response(reader) == (200, b"1")


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nabcde", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n"]
)
async def test_an_upgrade_to_http2_is_declined_and_the_body_is_read(version: bytes, body: bytes) -> None:
    request = b"POST / HTTP/" + version + b"\r\nHost: a\r\n" + UPGRADE + body
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(request)
        assert await read_response(reader) == (200, b"5")
        if version == b"1.1":
            for byte in request:
                writer.write(bytes([byte]))
                await writer.drain()
            assert await read_response(reader) == (200, b"5")


async def test_a_request_for_which_there_is_no_memory_gets_a_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_connection: h11.Connection, _data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(h11.Connection, "receive_data", no_memory)
    async with serving() as connect:
        reader, writer = await connect()
        writer.write(POST + b"Content-Length: 1\r\n\r\nx")
        status, body = await read_response(reader)
        assert (status, json.loads(body)["type"]) == (503, "unavailable")
        assert await read_until_closed(reader) == b""


async def test_an_error_after_the_response_has_begun_closes_the_connection() -> None:
    async with serving(respond_early) as connect:
        reader, writer = await connect()
        writer.write(CHUNKED)
        assert await read_response(reader) == (200, b"early")
        writer.write(b"not a chunk\r\n")
        assert await read_until_closed(reader) == b""
