"""Requests at the level of ASGI."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
from fastapi import FastAPI

from app.api.context import AppContext
from app.serving.service import ClassificationService
from tests.constants import WAIT_S

Message = MutableMapping[str, Any]  # Any: as in the ASGI specification

PNG = {"content-type": "image/png"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
PART_HEADERS = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'


class Upload:
    """The body of one request, as the server receives it: chunk by chunk, with pauses, and perhaps a disconnect."""

    def __init__(self, *chunks: bytes, complete: bool = True) -> None:
        self.received = 0  # messages that the application has asked for
        self.exhausted = asyncio.Event()  # the application asks for more than there is
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        for number, chunk in enumerate(chunks, start=1):
            self.send(chunk, complete=complete and number == len(chunks))

    def send(self, chunk: bytes, *, complete: bool = False) -> None:
        """Sends one more chunk."""
        self._messages.put_nowait({"type": "http.request", "body": chunk, "more_body": not complete})

    def disconnect(self) -> None:
        """Closes the connection."""
        self._messages.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        """ASGI's ``receive``."""
        self.received += 1
        if self._messages.empty():
            self.exhausted.set()
        return await self._messages.get()


async def call(
    app: FastAPI,
    upload: Upload,
    target: str = "/predict",
    headers: dict[str, str] = PNG,
    method: str = "POST",
    *,
    over_limit: bool = False,
) -> httpx.Response:
    """The response of ``app`` to one request."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("service", 80),
        "state": {"over_limit": over_limit},
    }
    async with asyncio.timeout(WAIT_S):
        await app(scope, upload.receive, send)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)


def start(
    app: FastAPI, upload: Upload, target: str = "/predict", headers: dict[str, str] = PNG
) -> asyncio.Task[httpx.Response]:
    """A request in the background."""
    return asyncio.create_task(call(app, upload, target, headers))


def context_of(app: FastAPI) -> AppContext:
    """What the application consists of."""
    context: AppContext = app.state.context
    return context


def service_of(app: FastAPI) -> ClassificationService:
    """The service of an application that has been started."""
    service = context_of(app).service
    assert service is not None
    return service


def check_released(app: FastAPI) -> None:
    """Every finished request has returned its memory and its place."""
    assert context_of(app).uploads.buffered_bytes == 0
    assert service_of(app).images_in_service == 0


async def request_counts(client: httpx.AsyncClient) -> set[str]:
    """The samples of convnext_requests_total."""
    lines = (await client.get("/metrics")).text.splitlines()
    return {line for line in lines if line.startswith("convnext_requests_total")}
