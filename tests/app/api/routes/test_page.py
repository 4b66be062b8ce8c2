"""GET /: the web page."""

import re

import pytest

from tests.app.api.asgi import CheckProblem, Connect

pytestmark = pytest.mark.anyio


async def test_the_page_is_html_that_posts_to_predict(connect: Connect) -> None:
    async with connect() as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert re.search(r"""["']/?predict""", response.text)


async def test_the_page_loads_nothing_from_elsewhere(connect: Connect) -> None:
    async with connect() as client:
        text = (await client.get("/")).text
    assert 'src="http' not in text
    assert 'href="http' not in text


async def test_head_is_supported(connect: Connect) -> None:
    async with connect() as client:
        page, response = await client.get("/"), await client.head("/")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-length"] == page.headers["content-length"]


async def test_a_post_names_the_path_that_classifies(connect: Connect, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/", files={"file": b"x"})
    detail = problem(response, 405, "about:blank")
    assert "POST /predict" in detail
    assert "/docs" in detail
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
