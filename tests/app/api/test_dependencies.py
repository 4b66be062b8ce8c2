"""Keys: who is asked for one, in which forms, and before what."""

import httpx
import pytest

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


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
async def test_without_one_of_the_keys_there_is_no_answer(connect, grey, problem, headers):
    headers = {name: value.encode() for name, value in headers.items()}
    async with connect(api_keys="one, two") as client:
        for response in (
            await client.post("/predict", content=grey(1), headers={"content-type": b"image/png"} | headers),
            await client.get("/model", headers=headers),
            await client.get("/model/labels", headers=headers),
        ):
            problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer one"},
        {"authorization": "bearer two"},
        {"x-api-key": "two"},
        {"authorization": "Bearer for-the-proxy", "x-api-key": "two"},
    ],
)
async def test_any_of_the_keys_opens(connect, grey, headers):
    async with connect(api_keys="one, two") as client:
        assert (await client.post("/predict", content=grey(1), headers=PNG | headers)).status_code == 200


async def test_without_keys_nobody_is_asked(connect, grey):
    async with connect() as client:
        assert (await client.post("/predict", content=grey(1), headers=PNG)).status_code == 200


async def test_a_stranger_is_refused_before_the_body_is_read(connect, call, problem):
    async def receive():
        pytest.fail("the body was read")

    async with connect(api_keys="one") as client:
        status, headers, body = await call(client.app, receive, headers=PNG)
        problem(httpx.Response(status, headers=headers, content=body), 401, "unauthorized")


async def test_a_stranger_learns_nothing_of_state_or_parameters(make_app, connect, problem):
    app = make_app(api_keys="one")
    async with connect(app) as client:
        app.state.context.service, classifier = None, app.state.context.service
        problem(await client.post("/predict?top_k=0", headers=PNG), 401, "unauthorized")
        app.state.context.service = classifier


async def test_metrics_the_page_and_the_documentation_are_open(connect):
    async with connect(api_keys="one") as client:
        for path in ("/metrics", "/", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
