"""The service on a fake engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from app.main import create_app
from app.settings import Settings
from tests.app.fake_engine import FakeEngine
from tests.app.serving.squares import Squares
from tests.app.types import CheckProblem, Connect, Grey, MakeApp, Until
from tests.conftest import Encode
from tests.constants import WAIT_S


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """The engine of ``make_app``."""
    engine = FakeEngine()
    yield engine
    engine.gate.set()


@pytest.fixture
def squares() -> Iterator[Squares]:
    """The function that a batcher of numbers runs."""
    run = Squares()
    yield run
    run.gate.set()


@pytest.fixture
def until() -> Until:
    """``await until(condition)`` runs other tasks until the condition holds."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 - yields to the loop, waits for no time
                await asyncio.sleep(0)

    return wait


@pytest.fixture
def grey(encode: Encode) -> Grey:
    """``grey(level)`` returns an encoded image that the fake engine classifies as ``level``."""

    def make(level: int, format: str = "PNG") -> bytes:  # noqa: A002 - Pillow's name
        return encode(Image.new("RGB", (12, 10), (level, level, level)), format)

    return make


@pytest.fixture
def make_app(engine: FakeEngine) -> MakeApp:
    """``make_app(**settings)`` returns the application with the fake engine."""

    def make(**settings: Any) -> FastAPI:  # Any: settings of different types
        return create_app(Settings(**{"decode_threads": 2} | settings), engine)

    return make


@pytest.fixture
def connect(make_app: MakeApp, engine: FakeEngine) -> Connect:
    """``async with connect(**settings) as client`` runs the service."""

    @asynccontextmanager
    async def start(app: FastAPI | None = None, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:  # Any: settings
        app = app or make_app(**settings)
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service", timeout=WAIT_S) as client:
                try:
                    yield client
                finally:
                    engine.gate.set()

    return start


@pytest.fixture
def problem() -> CheckProblem:
    """``problem(response, status, type)`` asserts that a response is such a problem of RFC 9457; returns its detail."""

    def check(response: httpx.Response, status: int, type: str) -> str:  # noqa: A002 - RFC 9457's name
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        body = response.json()
        assert (body["type"], body["status"]) == (type, status)
        assert set(body) == {"type", "title", "status", "detail"}
        title, detail = body["title"], body["detail"]
        assert isinstance(title, str)
        assert title
        assert isinstance(detail, str)
        assert detail
        assert response.headers["x-request-id"]
        return detail

    return check
