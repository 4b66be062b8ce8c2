"""The service on a fake engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from tests.app.fake_engine import WAIT_S, FakeEngine
from tests.app.serving.squares import Squares


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """The engine of ``make_app``."""
    engine = FakeEngine()
    yield engine
    engine.gate.set()


@pytest.fixture
def squares() -> Iterator[Squares]:
    """The run of a batcher of numbers."""
    run = Squares()
    yield run
    run.gate.set()


@pytest.fixture
def until() -> Callable[[Callable[[], object]], Any]:
    """``await until(condition)``: lets everything else run until the condition holds."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - yields to the loop, waits for no time
                await asyncio.sleep(0)

    return wait


@pytest.fixture
def grey(encode: Callable[..., bytes]) -> Callable[..., bytes]:
    """``grey(level)``: an encoded image that the fake engine answers with class ``level``."""

    def make(level: int, format: str = "PNG") -> bytes:  # noqa: A002
        return encode(Image.new("RGB", (12, 10), (level, level, level)), format)

    return make


@pytest.fixture
def make_app(engine: FakeEngine) -> Callable[..., FastAPI]:
    """``make_app(**settings)``: the application on the fake engine."""
    return lambda **settings: create_app(Settings(**{"decode_threads": 2} | settings), engine)


@pytest.fixture
def connect(
    make_app: Callable[..., FastAPI], engine: FakeEngine
) -> Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]:
    """``async with connect(**settings) as client``: the started service; ``client.app`` is its application."""

    @asynccontextmanager
    async def start(app: FastAPI | None = None, **settings: object) -> AsyncIterator[httpx.AsyncClient]:
        app = app or make_app(**settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=WAIT_S) as client:
                client.app = app
                try:
                    yield client
                finally:
                    engine.gate.set()

    return start


@pytest.fixture
def problem() -> Callable[[httpx.Response, int, str], str]:
    """``problem(response, status, type)``: holds a response to RFC 9457 and to its row; gives the detail."""

    def check(response: httpx.Response, status: int, type: str) -> str:  # noqa: A002
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        body = response.json()
        assert (body["type"], body["status"]) == (type, status)
        assert set(body) == {"type", "title", "status", "detail"}
        assert isinstance(body["title"], str)
        assert body["title"]
        assert isinstance(body["detail"], str)
        assert body["detail"]
        assert response.headers["x-request-id"]
        return body["detail"]

    return check


@pytest.fixture
def call() -> Callable[..., Any]:
    """``await call(app, receive, …)``: one request at the level of ASGI; gives ``(status, headers, body)``."""

    async def request(
        app: FastAPI,
        receive: Callable[[], Any],
        path: str = "/predict",
        headers: dict[str, str] | None = None,
        method: str = "POST",
    ) -> tuple[int, dict[str, str], bytes]:
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
            "client": ("127.0.0.1", 1),
            "server": ("service", 80),
            "state": {},
        }
        async with asyncio.timeout(WAIT_S):
            await app(scope, receive, send)
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], head, b"".join(message.get("body", b"") for message in sent[1:])

    return request
