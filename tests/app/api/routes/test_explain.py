"""POST /explain: numbers, pictures and their negotiation."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.app.types import CheckProblem, Connect, Grey

pytestmark = pytest.mark.anyio


async def test_the_most_probable_class_is_explained(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        response = await client.post("/explain", files={"file": grey(9)})
    content = response.json()
    assert (content["class_id"], content["label"], content["model"]) == (9, "grey 9", "fake")
    assert content["probability"] == pytest.approx(0.5)
    assert np.shape(content["map"]) == (2, 2)
    assert response.headers["vary"] == "Accept"
    assert "inference" in response.headers["server-timing"]


async def test_a_class_can_be_chosen(connect: Connect, grey: Grey) -> None:
    async with connect() as client:
        content = (await client.post("/explain?class_id=11", files={"file": grey(9)})).json()
    assert (content["class_id"], content["probability"]) == (11, pytest.approx(0.125))


@pytest.mark.parametrize("class_id", ["-1", "256", "x"])
async def test_a_class_that_does_not_exist_is_a_problem(
    connect: Connect, grey: Grey, problem: CheckProblem, class_id: str
) -> None:
    async with connect() as client:
        response = await client.post(f"/explain?class_id={class_id}", files={"file": grey(9)})
    assert "class_id" in problem(response, 422, "invalid-parameter")


@pytest.mark.parametrize("accept", ["image/png", "image/*;q=0.9, text/html"])
async def test_the_picture_has_the_size_of_the_input(connect: Connect, grey: Grey, accept: str) -> None:
    async with connect() as client:
        response = await client.post("/explain", files={"file": grey(9)}, headers={"Accept": accept})
    assert response.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(response.content)) as picture:
        assert (picture.format, picture.size) == ("PNG", (8, 8))


async def test_other_media_types_are_not_acceptable(connect: Connect, grey: Grey, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/explain", files={"file": grey(9)}, headers={"Accept": "text/html"})
    assert "image/png" in problem(response, 406, "not-acceptable")
    assert response.headers["vary"] == "Accept"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json;q=0.1, image/png", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("application/json; q=0, */*; q=0.5", "image/png"),
        ("*/*", "application/json"),
        ("*/*;q=0", "application/problem+json"),
        ("image/png;q=nan", "application/problem+json"),
    ],
)
async def test_the_preferred_media_type_is_returned(connect: Connect, grey: Grey, accept: str, expected: str) -> None:
    async with connect() as client:
        response = await client.post("/explain", files={"file": grey(9)}, headers={"Accept": accept})
    assert response.headers["content-type"] == expected
