"""POST /predict/batch: order, single failures and limits."""

import asyncio

import pytest

from tests.app.api.asgi import service_of
from tests.app.fake_engine import FakeEngine
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio

Files = list[tuple[str, tuple[str, bytes]]]


def files(*images: bytes) -> Files:
    return [("files", (f"{number}.png", image)) for number, image in enumerate(images)]


async def test_results_are_in_order_with_their_file_names(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/predict/batch?top_k=1", files=files(*map(grey, (9, 3, 200))))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [item["file_name"] for item in results] == ["0.png", "1.png", "2.png"]
    assert [[row["class_id"] for row in item["predictions"]] for item in results] == [[9], [3], [200]]


async def test_an_unusable_image_does_not_fail_the_others(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/predict/batch", files=files(grey(9), b"no image", b"", grey(3)[:40], grey(3)))
    results = response.json()["results"]
    assert ["problem" in item for item in results] == [False, True, True, True, False]
    assert [item["problem"]["status"] for item in results[1:4]] == [415, 415, 422]
    assert {tuple(sorted(item["problem"])) for item in results[1:4]} == {("detail", "status", "title", "type")}


@pytest.mark.parametrize("count", [0, 4])
async def test_none_or_too_many_images_are_a_problem(
    connect: Connect, grey: Grey, problem: CheckProblem, count: int
) -> None:
    async with connect(max_images_per_request=3) as client:
        response = await client.post(
            "/predict/batch", files=files(*[grey(1)] * count) or {"other": b""}, headers={"Accept": "*/*"}
        )
    problem(response, 400, "invalid-request")


async def test_images_are_admitted_together_or_not_at_all(
    connect: Connect, engine: FakeEngine, grey: Grey, make_app: MakeApp, problem: CheckProblem
) -> None:
    app = make_app(max_queue_size=4, max_batch_size=1)
    async with connect(app) as client:
        engine.gate.clear()
        first = asyncio.create_task(client.post("/predict/batch", files=files(*[grey(1)] * 3)))
        await engine.entered()
        rejected = await client.post("/predict/batch", files=files(*[grey(2)] * 2))
        problem(rejected, 503, "overloaded")
        assert service_of(app).images_in_service == 3
        engine.gate.set()
        assert (await first).status_code == 200
        assert service_of(app).images_in_service == 0


async def test_more_images_than_the_service_can_ever_hold_are_no_overload(
    connect: Connect, grey: Grey, problem: CheckProblem
) -> None:
    async with connect(max_queue_size=2, max_batch_size=2) as client:
        response = await client.post("/predict/batch", files=files(*map(grey, (1, 2, 3))))
        assert (await client.post("/predict/batch", files=files(*map(grey, (1, 2))))).status_code == 200
    assert "2" in problem(response, 400, "invalid-request")


async def test_the_images_count_towards_the_body_limit_together(
    connect: Connect, grey: Grey, problem: CheckProblem
) -> None:
    async with connect(max_upload_bytes=3000) as client:
        assert (await client.post("/predict/batch", files=files(grey(1)))).status_code == 200
        response = await client.post("/predict/batch", files=files(grey(1), bytes(1500), bytes(1500)))
    problem(response, 413, "upload-too-large")


async def test_a_body_that_is_no_form_is_a_problem(connect: Connect, grey: Grey, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/predict/batch", content=grey(1), headers={"Content-Type": "image/png"})
    assert "files" in problem(response, 415, "unsupported-media-type")


async def test_a_failed_engine_fails_the_request(
    connect: Connect, engine: FakeEngine, grey: Grey, problem: CheckProblem
) -> None:
    engine.failures.append(RuntimeError("broken"))
    async with connect() as client:
        response = await client.post("/predict/batch", files=files(grey(1)))
    problem(response, 503, "unavailable")
