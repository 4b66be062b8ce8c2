"""API keys: which requests need one, in which forms, and before what; requests before the start."""

from pathlib import Path

import pytest

from tests.app.api.asgi import PNG, Upload, call, context_of
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic b25lOnR3bw=="},
        {"authorization": "one"},
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": "one,two"},
        {"x-api-key": "öne"},
    ],
)
async def test_rejects_requests_without_a_valid_key(
    connect: Connect, grey: Grey, problem: CheckProblem, headers: dict[str, str]
) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    async with connect(api_keys="one, two") as client:
        for response in (
            await client.post("/predict", content=grey(1), headers={b"content-type": b"image/png"} | encoded),
            await client.get("/model", headers=encoded),
            await client.get("/model/labels", headers=encoded),
        ):
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer one"},
        {"authorization": "bearer two"},
        {"x-api-key": "two"},
        {"x-api-key": "schlüssel"},
        {"authorization": "Bearer for-the-proxy", "x-api-key": "two"},
    ],
)
async def test_accepts_every_valid_key(connect: Connect, grey: Grey, headers: dict[str, str]) -> None:
    encoded = {name.encode(): value.encode() for name, value in headers.items()}
    async with connect(api_keys="one, two, schlüssel") as client:
        response = await client.post("/predict", content=grey(1), headers={b"content-type": b"image/png"} | encoded)
    assert response.status_code == 200


async def test_accepts_the_keys_of_a_file_that_changes(connect: Connect, grey: Grey, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# the first\none\n", encoding="utf-8")
    async with connect(api_keys_file=path, api_keys="two") as client:

        async def status(key: str) -> int:
            return (await client.post("/predict", content=grey(1), headers=PNG | {"x-api-key": key})).status_code

        assert [await status(key) for key in ("one", "two", "three")] == [200, 200, 401]
        path.write_text("three\n", encoding="utf-8")
        assert [await status(key) for key in ("one", "two", "three")] == [401, 200, 200]


async def test_rejects_a_request_without_a_key_before_its_body_is_read(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app, upload = make_app(api_keys="one"), Upload()
    async with connect(app):
        problem(await call(app, upload), 401, "unauthorized")
    assert not upload.received


async def test_a_request_without_a_key_learns_nothing_of_state_or_parameters(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app = make_app(api_keys="one")
    async with connect(app) as client:
        context = context_of(app)
        service, context.service = context.service, None
        problem(await client.post("/predict?top_k=0", headers=PNG), 401, "unauthorized")
        context.service = service


async def test_health_metrics_the_page_and_the_documentation_need_no_key(connect: Connect) -> None:
    async with connect(api_keys="one") as client:
        for path in ("/health", "/health/ready", "/health/live", "/metrics", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/model", "/model/labels"])
async def test_before_the_start_responses_say_when_to_retry(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, path: str
) -> None:
    app = make_app()
    async with connect(app) as client:
        context = context_of(app)
        service, context.service = context.service, None
        response = await client.request("POST" if path == "/predict" else "GET", path)
        context.service = service
    problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
