"""/health in its four states."""

import asyncio

import pytest

from model.errors import DeviceLost
from tests.app.serving.squares import ticks

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}
ENGINE = {"model": "fake", "device": "cpu", "precision": "float32"}
NOTHING = dict.fromkeys(ENGINE)


async def states(client) -> dict[str, tuple[int, dict]]:
    answers = {path: await client.get(path) for path in ("/health", "/health/ready", "/health/live")}
    return {path: (answer.status_code, answer.json()) for path, answer in answers.items()}


async def test_ready(connect):
    async with connect() as client:
        assert await states(client) == {
            "/health": (200, {"status": "ready"} | ENGINE),
            "/health/ready": (200, {"status": "ready"} | ENGINE),
            "/health/live": (200, {"status": "alive"}),
        }


async def test_starting(make_app, connect):
    app = make_app()
    async with connect(app) as client:
        app.state.context.service, classifier = None, app.state.context.service
        assert await states(client) == {
            "/health": (503, {"status": "starting"} | NOTHING),
            "/health/ready": (503, {"status": "starting"} | NOTHING),
            "/health/live": (200, {"status": "alive"}),
        }
        app.state.context.service = classifier


async def test_draining(connect, engine, grey):
    engine.gate.clear()
    async with connect() as client:
        running = asyncio.ensure_future(client.post("/predict", content=grey(1), headers=PNG))
        await engine.entered()
        draining = asyncio.ensure_future(client.app.state.context.service.drain(20))
        await ticks()
        assert await states(client) == {
            "/health": (503, {"status": "draining"} | ENGINE),
            "/health/ready": (503, {"status": "draining"} | ENGINE),
            "/health/live": (200, {"status": "alive"}),
        }
        engine.gate.set()
        assert (await running).status_code == 200
        await draining


async def test_failed(connect, engine, grey):
    engine.failures = [DeviceLost("gone")]
    async with connect() as client:
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 503
        assert await states(client) == {
            "/health": (503, {"status": "failed"} | ENGINE),
            "/health/ready": (503, {"status": "failed"} | ENGINE),
            "/health/live": (503, {"status": "failed"}),
        }


async def test_health_asks_for_no_key(connect):
    async with connect(api_keys="secret") as client:
        assert {status for status, _ in (await states(client)).values()} == {200}


@pytest.mark.parametrize("path", ["/health", "/health/ready", "/health/live"])
async def test_a_probe_may_ask_for_the_head_alone(connect, path):
    async with connect() as client:
        assert (await client.head(path)).status_code == 200
