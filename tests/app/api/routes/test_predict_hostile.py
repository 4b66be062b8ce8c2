"""Hostile requests: whatever is sent to /predict, the response is a prediction or a problem, and never a 500."""

import asyncio
import io
from typing import Any

import httpx
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from app.api.schemas import Problem
from app.main import create_app
from app.settings import Settings
from tests.app.fake_engine import FakeEngine

Request = dict[str, Any]  # Any: keyword arguments of httpx


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "grey").save(buffer, "PNG")
    return buffer.getvalue()


def responses(requests: list[Request]) -> list[httpx.Response]:
    """The responses of a service of its own to the requests, one after the other."""

    async def post_all() -> list[httpx.Response]:
        app = create_app(Settings(decode_threads=1, max_upload_bytes=4000), FakeEngine())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return [await client.post("/predict", **request) for request in requests]

    return asyncio.run(post_all())


def check(response: httpx.Response) -> None:
    assert response.status_code in {200, 400, 413, 415, 422}
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert Problem.model_validate_json(response.content).status == response.status_code


PARTS = st.sampled_from(
    [
        b"--xyz\r\n",
        b"--xyz--\r\n",
        b"\r\n",
        b"\n",
        b'Content-Disposition: form-data; name="file"; filename="a.png"',
        b"Content-Disposition: form-data; name=file",
        b"Content-Disposition: form-data",
        b"Content-Disposition: ;;;=",
        b"Content-Type: image/png",
        b"Content-Type: multipart/mixed; boundary=abc",
        b"Content-Transfer-Encoding: base64",
        b": no name",
        png(),
        b"a" * 3000,
    ]
)
BODIES = st.lists(PARTS | st.binary(max_size=30), max_size=12).map(b"".join)
TYPES = st.sampled_from(
    [
        b"multipart/form-data; boundary=xyz",
        b'multipart/form-data; boundary="xyz"; charset=undefined',
        b"multipart/form-data; boundary=xyz; charset=idna",
        b"multipart/form-data; boundary=; charset=base64",
        b"multipart/form-data; boundary=" + b"x" * 300,
        b"Multipart/Form-Data",
        b"image/png",
        b"image/",
        b"/",
        b"\xff",
    ]
)
QUERIES = st.sampled_from(["", "?top_k=2", "?top_k=%00", "?top_k=1&top_k=x", "?%ff=%fe", "?top_k", "?top_k=٣", "?&&=&"])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(BODIES, TYPES, QUERIES), min_size=10, max_size=10))
@example([(b"", b"multipart/form-data; boundary=xyz; charset=undefined", "")])
def test_no_body_type_or_query_causes_a_500(found: list[tuple[bytes, bytes, str]]) -> None:
    for response in responses(
        [{"content": body, "headers": {"content-type": kind}, "params": query[1:]} for body, kind, query in found]
    ):
        check(response)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_no_damaged_upload_causes_a_500(data: st.DataObject) -> None:
    whole = (
        b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
        + png()
        + b"\r\n--xyz--\r\n"
    )
    requests: list[Request] = []
    for _ in range(20):
        body = bytearray(whole)
        for place in data.draw(st.lists(st.integers(0, len(whole) - 1), max_size=4)):
            body[place] = data.draw(st.integers(0, 255))
        end = data.draw(st.sampled_from([len(body), data.draw(st.integers(0, len(body)))]))
        requests.append(
            {"content": bytes(body[:end]), "headers": {"content-type": "multipart/form-data; boundary=xyz"}}
        )
    for response in responses(requests):
        check(response)


def test_an_undamaged_upload_is_classified() -> None:
    assert responses([{"files": {"file": png()}}])[0].status_code == 200
