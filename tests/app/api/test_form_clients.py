"""Forms as the HTTP clients of Python encode them."""

import asyncio

import aiohttp
import httpx
import pytest
import requests
import urllib3

from tests.app.api.test_form import PHOTO, parse

NAMES = [
    "photo.jpg",
    "Größe – 写真.png",
    'a"b;c\\d.png',
    "100%25.png",
    " ",
    "x" * 255,
    "../../etc/passwd",
]


@pytest.mark.parametrize("name", NAMES)
def test_accepts_what_httpx_sends(name: str) -> None:
    request = httpx.Request("POST", "http://service", files={"file": (name, PHOTO, "image/png")})
    assert parse([request.read()], request.headers["content-type"]).content == PHOTO


@pytest.mark.parametrize("name", [*NAMES, "", "a\x7fb"])
def test_accepts_what_requests_sends(name: str) -> None:
    request = requests.Request("POST", "http://service", files={"file": (name, PHOTO, "image/png")}).prepare()
    assert isinstance(request.body, bytes)
    assert parse([request.body], request.headers["content-type"]).content == PHOTO


@pytest.mark.parametrize("name", [*NAMES, "", "a\x7fb"])
def test_accepts_what_urllib3_sends(name: str) -> None:
    content, content_type = urllib3.encode_multipart_formdata({"file": (name, PHOTO, "image/png")})
    assert parse([content], content_type).content == PHOTO


@pytest.mark.parametrize("name", [*NAMES, ""])
def test_accepts_what_aiohttp_sends(name: str) -> None:
    async def encode() -> tuple[bytes, str]:
        form = aiohttp.FormData()
        form.add_field("file", PHOTO, filename=name, content_type="image/png")
        payload = form()
        return await payload.as_bytes(), payload.headers["content-type"]

    content, content_type = asyncio.run(encode())
    assert parse([content], content_type).content == PHOTO
