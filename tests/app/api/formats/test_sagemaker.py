"""SageMaker: ping and invocations."""

import pytest

from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("content_type", ["image/png", "application/x-image", "application/octet-stream"])
async def test_an_invocation_classifies_the_body(connect: Connect, grey: Grey, content_type: str) -> None:
    async with connect(protocols={"sagemaker"}) as client:
        response = await client.post(
            "/invocations?top_k=1", content=grey(8), headers={"Content-Type": content_type, "Accept": "*/*"}
        )
    assert response.status_code == 200
    assert response.json()["predictions"] == [{"label": "grey 8", "class_id": 8, "probability": pytest.approx(0.5)}]
    assert "decode" in response.headers["server-timing"]


async def test_an_unusable_body_is_a_problem(connect: Connect, problem: CheckProblem) -> None:
    async with connect(protocols={"sagemaker"}) as client:
        response = await client.post("/invocations", content=b"no image", headers={"Content-Type": "image/png"})
    problem(response, 415, "unsupported-media-type")


async def test_ping_fails_until_the_service_has_started(connect: Connect, make_app: MakeApp) -> None:
    app = make_app(protocols={"sagemaker"})
    async with connect(app) as client:
        assert (await client.get("/ping")).status_code == 200
        service, app.state.context.service = app.state.context.service, None
        assert (await client.get("/ping")).status_code == 503
        app.state.context.service = service
