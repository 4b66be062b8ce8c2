"""/health in each of its states."""

import asyncio

import httpx
import pytest

from model.errors import DeviceLost, EngineError
from tests.app.api.asgi import PNG, Upload, context_of, service_of, start
from tests.app.fake_engine import FakeEngine
from tests.app.types import Connect, Grey, MakeApp, Until
from tests.constants import WAIT_S

pytestmark = pytest.mark.anyio

ENGINE = {"model": "fake", "device": "cpu", "precision": "float32"}
NO_ENGINE = dict.fromkeys(ENGINE)


async def states(client: httpx.AsyncClient) -> list[tuple[int, dict[str, str | None]]]:
    """What /health/ready, which is the same as /health, and /health/live return."""
    responses = [await client.get(path) for path in ("/health", "/health/ready", "/health/live")]
    health, ready, live = [(response.status_code, response.json()) for response in responses]
    assert health == ready
    return [ready, live]


async def test_ready(connect: Connect) -> None:
    async with connect() as client:
        assert await states(client) == [(200, {"status": "ready"} | ENGINE), (200, {"status": "alive"})]


async def test_starting(make_app: MakeApp, connect: Connect) -> None:
    app = make_app()
    async with connect(app) as client:
        context = context_of(app)
        service, context.service = context.service, None
        assert await states(client) == [(503, {"status": "starting"} | NO_ENGINE), (200, {"status": "alive"})]
        context.service = service


async def test_draining(make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, until: Until) -> None:
    app = make_app()
    engine.gate.clear()
    async with connect(app) as client:
        running = start(app, Upload(grey(1)))
        await engine.entered()
        draining = asyncio.create_task(service_of(app).drain(WAIT_S))
        await until(lambda: service_of(app).draining)
        assert await states(client) == [(503, {"status": "draining"} | ENGINE), (200, {"status": "alive"})]
        engine.gate.set()
        assert (await running).status_code == 200
        await draining


async def test_failing(connect: Connect, engine: FakeEngine, grey: Grey) -> None:
    engine.failures = [EngineError("out of memory") for _ in range(9)]
    async with connect() as client:
        for _ in range(3):
            assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 503
        engine.gate.clear()  # holds the probe that would notice a recovery
        assert await states(client) == [(503, {"status": "failing"} | ENGINE), (200, {"status": "alive"})]


async def test_failed(connect: Connect, engine: FakeEngine, grey: Grey) -> None:
    engine.failures = [DeviceLost("gone")]
    async with connect() as client:
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 503
        assert await states(client) == [(503, {"status": "failed"} | ENGINE), (503, {"status": "failed"})]
