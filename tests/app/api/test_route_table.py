"""The names of routes in the metrics, and paths with a slash at their end."""

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from tests.app.api.asgi import request_counts
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/predict/?top_k=3", "/predict/batch/", "/embed/", "/explain/"])
async def test_a_slash_at_the_end_of_a_path_does_not_matter(connect: Connect, grey: Grey, path: str) -> None:
    name = "files" if "batch" in path else "file"
    async with connect() as client:
        response, expected = [
            await client.post(target, files={name: grey(1)}) for target in (path, path.replace("/?", "?").rstrip("/"))
        ]
    assert response.status_code == 200
    assert response.json() == expected.json()


@pytest.mark.parametrize(
    "path",
    [
        *("/health/", "/model/", "/metrics/", "/redoc", "/static/absent.js", "/static/", "/static/%2e%2e/schemas.py"),
        *("/docs/nothing.js", "/docs/..%2Findex.html", "/docs/docs.html", "/docs/"),
    ],
)
async def test_other_paths_are_neither_found_nor_redirected(connect: Connect, problem: CheckProblem, path: str) -> None:
    async with connect() as client:
        assert "/predict" in problem(await client.get(path), 404, "about:blank")


async def test_unknown_paths_share_one_label(connect: Connect) -> None:
    async with connect() as client:
        for path in ("/nowhere", "/nowhere/else", "/predict/1", "/docs/no/such", "/%00", "/Predict"):
            assert (await client.get(path)).status_code == 404
        counts = await request_counts(client)
    assert {line for line in counts if '"404"' in line} == {
        'convnext_requests_total{route="unmatched",status="404"} 6.0'
    }


async def test_the_routes_of_the_framework_have_their_own_labels(connect: Connect) -> None:
    async with connect() as client:
        for path in ("/openapi.json", "/docs", "/docs/swagger-ui.css", "/predict/"):
            await client.get(path)
        counts = await request_counts(client)
    assert counts >= {
        'convnext_requests_total{route="/openapi.json",status="200"} 1.0',
        'convnext_requests_total{route="/docs",status="200"} 1.0',
        'convnext_requests_total{route="/docs/{name}",status="200"} 1.0',
        'convnext_requests_total{route="/predict",status="405"} 1.0',
    }


async def test_mounted_applications_have_their_own_labels(make_app: MakeApp, connect: Connect) -> None:
    app, api = make_app(), FastAPI(openapi_url=None)

    @api.get("/items/{number}")
    async def item(number: int) -> int:
        return number

    app.mount("/api", api)
    app.mount("/files", PlainTextResponse("a file"))
    async with connect(app) as client:
        for path in ("/api/items/1", "/api/items/2", "/api/nowhere", "/files/a", "/files/b", "/items/1"):
            await client.get(path)
        counts = await request_counts(client)
    assert counts == {
        'convnext_requests_total{route="/api",status="200"} 2.0',
        'convnext_requests_total{route="/api",status="404"} 1.0',
        'convnext_requests_total{route="/files",status="200"} 2.0',
        'convnext_requests_total{route="unmatched",status="404"} 1.0',
    }


async def test_labels_do_not_contain_the_root_path(make_app: MakeApp) -> None:
    app = make_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, root_path="/proxied")
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            assert (await client.get("/proxied/health")).status_code == 200
            counts = {line for line in (await client.get("/proxied/metrics")).text.splitlines() if "/health" in line}
    assert 'convnext_requests_total{route="/health",status="200"} 1.0' in counts
