"""Errors in the formats of other servers: {"error": message}, whatever part of the service they come from."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.app.api.asgi import service_of
from tests.app.fake_engine import FakeEngine
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio

PROTOCOLS = "open_inference,kserve,vertex,huggingface"
ROUTES = [
    "/v1/models/fake:predict",
    "/v1/models/fake:explain",
    "/v1/models/fake/versions/1:predict",
    "/v2/models/fake/infer",
    "/v2/models/fake/versions/1/infer",
    "/vertex/predict",
    "/",
]


def body_for(path: str, image: bytes) -> dict[str, Any]:  # Any: JSON
    text = base64.b64encode(image).decode()
    if path.startswith("/v2"):
        return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    return {"inputs": text} if path == "/" else {"instances": [{"b64": text}]}


def check(response: httpx.Response, status: int) -> str:
    """The message of an error in the form of these formats."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    message = response.json()["error"]
    assert isinstance(message, str)
    assert message
    assert response.headers["x-request-id"]
    return message


@pytest.mark.parametrize("path", ROUTES)
async def test_while_draining(connect: Connect, make_app: MakeApp, grey: Grey, path: str) -> None:
    app = make_app(protocols=PROTOCOLS)
    async with connect(app) as client:
        await service_of(app).drain(1.0)
        response = await client.post(path, json=body_for(path, grey(1)))
        check(response, 503)
        assert response.headers["retry-after"]
        for probe in ("/v1/models/fake", "/v1/models/fake/versions/1", "/v2/health/ready", "/v2/models/fake/ready"):
            check(await client.get(probe), 503)
        check(await client.get("/vertex/health"), 503)


@pytest.mark.parametrize("path", ROUTES)
async def test_before_the_start(connect: Connect, make_app: MakeApp, grey: Grey, path: str) -> None:
    app = make_app(protocols=PROTOCOLS)
    async with connect(app) as client:
        service, app.state.context.service = app.state.context.service, None
        check(await client.post(path, json=body_for(path, grey(1))), 503)
        for probe in ("/v1/models/fake", "/v2/health/live", "/v2/health/ready", "/vertex/health"):
            check(await client.get(probe), 503)
        app.state.context.service = service


@pytest.mark.parametrize("path", ROUTES)
async def test_on_overload(connect: Connect, make_app: MakeApp, engine: FakeEngine, grey: Grey, path: str) -> None:
    app = make_app(protocols=PROTOCOLS, max_queue_size=1, max_batch_size=1)
    engine.gate.clear()
    async with connect(app) as client, asyncio.TaskGroup() as group:
        running = group.create_task(client.post("/predict", files={"file": grey(0)}))
        await engine.entered()
        response = await client.post(path, json=body_for(path, grey(1)))
        check(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        engine.gate.set()
        assert (await running).status_code == 200


@pytest.mark.parametrize("path", ROUTES)
async def test_after_the_deadline(connect: Connect, engine: FakeEngine, grey: Grey, path: str) -> None:
    engine.gate.clear()
    async with connect(protocols=PROTOCOLS, request_timeout_s=0.1) as client:
        check(await client.post(path, json=body_for(path, grey(1))), 504)
        engine.gate.set()


@pytest.mark.parametrize("path", ROUTES)
async def test_of_the_network(connect: Connect, engine: FakeEngine, grey: Grey, path: str) -> None:
    engine.failures.append(RuntimeError("secret"))
    async with connect(protocols=PROTOCOLS) as client:
        response = await client.post(path, json=body_for(path, grey(1)))
    assert response.status_code in (500, 503)
    assert "secret" not in check(response, response.status_code)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("send", "status"),
    [
        (lambda body: {"content": bytes(100_001)}, 413),
        (lambda body: {"content": b"a", "headers": {"Content-Encoding": "br"}}, 415),
        (lambda body: {"content": b"a", "headers": {"Content-Encoding": "gzip"}}, 400),
        (lambda body: {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        (lambda body: {"json": body | {"parameters": {"top_k": "x"}}}, 400),
    ],
)
async def test_of_the_body(
    connect: Connect, grey: Grey, path: str, send: Callable[[object], dict[str, Any]], status: int
) -> None:
    async with connect(protocols=PROTOCOLS, max_upload_bytes=100_000) as client:
        response = await client.post(path, **send(body_for(path, grey(1))))
    check(response, status)
    assert ("accept-encoding" in response.headers) == (status == 415)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(("image", "status"), [(b"words", 415), (b"\x89PNG\r\n\x1a\n", 422)])
async def test_of_the_image(connect: Connect, path: str, image: bytes, status: int) -> None:
    async with connect(protocols=PROTOCOLS) as client:
        check(await client.post(path, json=body_for(path, image)), status)


@pytest.mark.parametrize("path", ROUTES)
async def test_without_a_key(connect: Connect, grey: Grey, path: str) -> None:
    async with connect(protocols=PROTOCOLS, api_keys="secret") as client:
        response = await client.post(path, json=body_for(path, grey(1)))
    check(response, 401)
    assert response.headers["www-authenticate"]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path",
    [
        "/v1",
        "/v1/",
        "/v1/models/",
        "/v1/models/fake/labels/stable:predict",
        "/v1/models/fake/metadata",
        "/v1/a/b/c",
        "/v2/repository/index",
        "/v2/models/fake/stats",
        "/v2/models/fake/versions/1/infer/",
        "/v2/nothing",
        "/vertex",
        "/vertex/nothing",
        "/vertex/predict/nothing",
    ],
)
async def test_of_unknown_paths_below_the_routes(connect: Connect, method: str, path: str) -> None:
    async with connect(protocols=PROTOCOLS) as client:
        response = await client.request(method, path)
    check(response, 404)


@pytest.mark.parametrize("path", ["/vertex/predict", "/v1/models/fake:predict", "/v2/models/fake/infer", "/v2"])
async def test_of_the_method(connect: Connect, path: str) -> None:
    async with connect(protocols=PROTOCOLS) as client:
        response = await client.put(path)
    check(response, 405)
    assert response.headers["allow"]


@pytest.mark.parametrize("path", ["/v1/nothing", "/v2/nothing", "/vertex/nothing", "/nothing", "/v1x"])
async def test_elsewhere_are_problems(connect: Connect, problem: CheckProblem, path: str) -> None:
    formats = PROTOCOLS if path in ("/nothing", "/v1x") else "sagemaker"
    async with connect(protocols=formats) as client:
        problem(await client.get(path), 404, "about:blank")
        problem(
            await client.post("/predict", content=b"", headers={"Content-Type": "image/png"}), 400, "invalid-request"
        )


async def test_are_counted_under_the_route_of_the_prediction(connect: Connect, grey: Grey) -> None:
    async with connect(protocols=PROTOCOLS) as client:
        for path in ROUTES:
            await client.post(path, json=body_for(path, grey(1)))
        metrics = (await client.get("/metrics")).text
    for route in (
        "/v1/models/{name}:predict",
        "/v1/models/{name}:explain",
        "/v2/models/{name}/infer",
        "/vertex/predict",
    ):
        assert f'route="{route}"' in metrics
    assert 'route="/v1/models/{name}"' not in metrics
