"""A server of an ASGI application, and connections to it on which tests write bytes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import uvicorn
from uvicorn.server import ServerState

from app.http.connections import ConnectionLimit, ConnectionMonitor, HttpProtocol
from tests.constants import WAIT_S

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


async def respond_early(_scope: Any, _receive: Any, send: Any) -> None:  # Any: ASGI
    """Responds before the body has been received."""
    await respond(send, b"early")


class Held:
    """An application whose responses wait for ``gate``."""

    def __init__(self) -> None:
        self.started, self.gate = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
        self.started.set()
        await self.gate.wait()
        await echo_length(scope, receive, send)


@asynccontextmanager
async def serving(
    app: ASGI = echo_length,
    *,
    timeout_s: float = WAIT_S,
    max_connections: int = 100,
    keep_alive_s: int = 75,
) -> AsyncIterator[Connect]:
    """Runs a server of ``app``; returns a function that opens a connection to it."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        ws="none",
        timeout_keep_alive=keep_alive_s,
    )
    config.load()
    state = ServerState()
    limit = ConnectionLimit(max_connections)
    monitor = ConnectionMonitor(cast(set[HttpProtocol], state.connections), limit, timeout_s)
    task = asyncio.create_task(monitor.run())
    writers: list[asyncio.StreamWriter] = []
    server = await asyncio.get_running_loop().create_server(
        lambda: HttpProtocol(config, state, {}, limit=limit), "127.0.0.1", 0
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


class RecordedTransport(asyncio.Transport):
    """A connection without a socket; tests call the protocol themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.answered = asyncio.Event()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data
        self.answered.set()

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True


def build_protocol(app: ASGI = echo_length) -> HttpProtocol:
    """The protocol of a single connection."""
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_keep_alive=75)
    return HttpProtocol(config, ServerState(), {}, limit=ConnectionLimit(1))
