"""GET /: the web page."""

import re

import httpx
import pytest

from tests.app.types import CheckProblem, Connect

pytestmark = pytest.mark.anyio


async def test_the_page_and_its_files_are_served_without_inline_scripts_and_other_hosts(connect: Connect) -> None:
    async with connect() as client:
        page = await client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        linked = re.findall(r'(?:src|href)="(?!data:)([^"#]+)"', page.text)
        assert [target for target in linked if "//" in target or target.startswith("/")] == []  # works under a prefix
        for target in linked:
            assert (await client.get(f"/{target}")).status_code == 200
    assert "<style" not in page.text
    assert re.findall(r"<script(?![^>]* src=)|\son\w+=|style=", page.text) == []


@pytest.mark.parametrize("path", ["/", "/static/page.js"])
async def test_nothing_inline_and_nothing_from_elsewhere_may_run(connect: Connect, path: str) -> None:
    async with connect() as client:
        headers = (await client.get(path)).headers
    directives = dict(part.split(maxsplit=1) for part in headers["content-security-policy"].split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["style-src"] == directives["connect-src"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/docs", "/docs/swagger-ui-bundle.js"])
async def test_a_file_that_the_browser_has_is_not_sent_again(connect: Connect, path: str) -> None:
    async with connect() as client:
        first = await client.get(path)
        again = await client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert first.headers["cache-control"] == "no-cache"
    assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


async def test_a_post_names_the_path_that_classifies(connect: Connect, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/", files={"file": b"x"})
    detail = problem(response, 405, "about:blank")
    assert "POST /predict" in detail
    assert "/docs" in detail
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}


PAGES = ["/", "/static/page.js", "/docs", "/docs/swagger-ui.css"]


def ancestors(response: httpx.Response) -> list[str]:
    [directive] = re.findall(r"frame-ancestors ([^;]*)", response.headers["content-security-policy"])
    return sorted(directive.split())


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("", ["'none'"]),
        ("none", ["'none'"]),
        ("'none'", ["'none'"]),
        ("self", ["'self'"]),
        ("*", ["*"]),
        (
            "'self', https://huggingface.co,https://*.hf.space",
            ["'self'", "https://*.hf.space", "https://huggingface.co"],
        ),
        ("https://a.example http://localhost:*", ["http://localhost:*", "https://a.example"]),
        ("https:", ["https:"]),
    ],
)
async def test_pages_may_be_embedded_where_the_setting_says_so(
    connect: Connect, setting: str, expected: list[str]
) -> None:
    async with connect(frame_ancestors=setting) as client:
        for path in PAGES:
            response = await client.get(path)
            assert ancestors(response) == expected
            assert "x-frame-options" not in response.headers  # knows no list of origins
