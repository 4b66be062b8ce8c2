"""GET /docs: Swagger UI, which loads nothing from elsewhere."""

import re
from urllib.parse import urljoin

import pytest

from tests.app.types import Connect

pytestmark = pytest.mark.anyio

_REFERENCE = re.compile(r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)""")


async def test_the_page_references_only_files_of_this_service(connect: Connect) -> None:
    async with connect() as client:
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        references = _REFERENCE.findall(page.text)
        assert len(references) >= 3
        for reference in references:
            url = urljoin("http://service/prefix/docs", reference)
            assert url.startswith("http://service/prefix/docs/"), "must work behind a path prefix"
            response = await client.get(url.replace("/prefix", ""))
            assert response.status_code == 200
            assert response.content


async def test_the_page_shows_this_services_description(connect: Connect) -> None:
    async with connect() as client:
        script = (await client.get("/docs/swagger.js")).text
        assert re.search(r'url: "openapi\.json"', script)
        assert (await client.get("/openapi.json")).json()["paths"]


@pytest.mark.parametrize("path", ["/docs", "/docs/swagger.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"])
async def test_the_security_policy_forbids_other_hosts_and_inline_scripts(connect: Connect, path: str) -> None:
    async with connect() as client:
        policy = (await client.get(path)).headers["content-security-policy"]
    directives = {name: set(values) for name, *values in (part.split() for part in policy.split(";"))}
    assert directives["default-src"] == {"'self'"}
    assert directives.keys().isdisjoint({"script-src", "connect-src", "font-src"})  # default-src applies
    assert {value for values in directives.values() for value in values} <= {
        "'self'",
        "'none'",
        "data:",
        "'unsafe-inline'",
    }
    assert directives["style-src"] == {"'self'", "'unsafe-inline'"}


async def test_the_page_has_no_inline_script(connect: Connect) -> None:
    async with connect() as client:
        text = (await client.get("/docs")).text
    assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == ["", ""]
    assert not re.search(r"\son\w+=", text)
