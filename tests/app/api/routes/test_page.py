"""GET /: the web page."""

import pytest

pytestmark = pytest.mark.anyio


async def test_the_page_is_html_that_posts_to_predict(connect):
    async with connect() as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "/predict" in response.text or "'predict" in response.text or '"predict' in response.text


async def test_the_page_loads_nothing_from_elsewhere(connect):
    async with connect() as client:
        text = (await client.get("/")).text
    assert 'src="http' not in text
    assert 'href="http' not in text
