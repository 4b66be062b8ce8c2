"""JSON bodies, and what clients that guess wrong are told."""

import base64
import gzip
import json
from collections.abc import Callable

import httpx
import pytest

from tests.app.types import CheckProblem, Connect, Grey

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("path", ["/predict", "/embed", "/explain"])
async def test_a_base64_image_in_json_is_accepted(connect: Connect, grey: Grey, path: str, prefix: str) -> None:
    async with connect() as client:
        response = await client.post(path, json={"image": prefix + base64.b64encode(grey(9)).decode()})
        assert response.status_code == 200
        expected = await client.post(path, files={"file": grey(9)})
    assert response.json() == expected.json()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        '{"image": 1}',
        '{"image": ""}',
        '{"image": "%"}',
        '{"image": "AA==", "top_k": 1}',
        '{"image": "A',
    ],
)
async def test_malformed_json_is_a_problem(connect: Connect, problem: CheckProblem, body: str) -> None:
    async with connect() as client:
        response = await client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    problem(response, 400, "invalid-request")


async def test_an_image_url_is_not_fetched(connect: Connect, problem: CheckProblem) -> None:
    async with connect() as client:
        for request in (
            {"json": {"image": "https://localhost/a.jpg"}},
            {"json": {"url": "https://localhost/a.jpg"}},
            {"content": b"HTTP://localhost/a.jpg", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            {"files": {"file": (None, "http://localhost")}},
        ):
            response = await client.post("/predict", **request)
            assert "not fetched" in problem(response, 400, "invalid-request")


@pytest.mark.parametrize(("given", "meant"), [("topk", "top_k"), ("TOP_K", "top_k"), ("min_prob", "min_probability")])
async def test_a_misspelled_parameter_is_recognized(
    connect: Connect, grey: Grey, problem: CheckProblem, given: str, meant: str
) -> None:
    async with connect() as client:
        response = await client.post(f"/predict?{given}=1", files={"file": grey(9)})
    assert meant in problem(response, 422, "invalid-parameter")


@pytest.mark.parametrize(("path", "name"), [("/predict", "top_k"), ("/explain", "class_id"), ("/embed", "encoding")])
async def test_a_parameter_in_the_form_is_redirected_to_the_query(
    connect: Connect, grey: Grey, problem: CheckProblem, path: str, name: str
) -> None:
    async with connect() as client:
        response = await client.post(path, files={"file": grey(9)}, data={name: "5"})
    detail = problem(response, 400, "invalid-request")
    assert f"?{name}=" in detail
    assert "/predict" not in detail


async def test_two_files_are_referred_to_the_batch_route(connect: Connect, grey: Grey, problem: CheckProblem) -> None:
    async with connect() as client:
        response = await client.post("/predict", files=[("file", grey(9)), ("file", grey(8))])
    assert "/predict/batch" in problem(response, 400, "invalid-request")


async def test_heic_is_named(connect: Connect, problem: CheckProblem) -> None:
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    async with connect() as client:
        response = await client.post("/predict", files={"file": heic})
    assert "HEIC" in problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json; charset=utf-8",
        "APPLICATION/JSON",
        "application/vnd.api+json",
        "text/json",
        "text/plain;charset=UTF-8",
        "application/x-www-form-urlencoded",  # curl --data
    ],
)
@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" \r\n"])
async def test_json_is_recognized_under_other_content_types(
    connect: Connect, grey: Grey, content_type: str, before: bytes
) -> None:
    body = before + json.dumps({"image": base64.b64encode(grey(9)).decode()}).encode()
    async with connect() as client:
        response = await client.post("/predict", content=body, headers={"Content-Type": content_type})
    assert response.json()["predictions"][0]["class_id"] == 9


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
async def test_json_may_be_in_any_encoding_of_unicode(connect: Connect, grey: Grey, encoding: str) -> None:
    body = json.dumps({"image": base64.b64encode(grey(9)).decode()}).encode(encoding)
    async with connect() as client:
        response = await client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["predictions"][0]["class_id"] == 9


@pytest.mark.parametrize(
    "content_type",
    [
        *("image/png", "IMAGE/PNG; q=1", "image/png; charset=utf-8", "image/jpeg", "image/jpg", "image/*", "*/*", ""),
        *("application/octet-stream", "binary/octet-stream", "application/x-image", "application/json"),
        *("application/x-www-form-urlencoded", "text/plain", "text/html", "x"),
    ],
)
async def test_an_image_is_an_image_under_any_content_type(connect: Connect, grey: Grey, content_type: str) -> None:
    async with connect() as client:
        response = await client.post("/predict", content=grey(9), headers={"Content-Type": content_type})
    assert response.json()["predictions"][0]["class_id"] == 9


async def test_a_form_under_the_content_type_of_json_is_recognized(
    connect: Connect, grey: Grey, problem: CheckProblem
) -> None:
    form = httpx.Request("POST", "http://service", files={"file": grey(9)}).read()
    async with connect() as client:
        response = await client.post("/predict", content=form, headers={"Content-Type": "application/json"})
    assert "multipart/form-data" in problem(response, 400, "invalid-request")


@pytest.mark.parametrize(
    "to_text",
    [
        lambda data: base64.urlsafe_b64encode(data).decode(),
        lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
        lambda data: base64.b64encode(data).decode().rstrip("="),
        lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
        lambda data: "DATA:image/png;name=a.png;BASE64," + base64.urlsafe_b64encode(data).decode(),
    ],
)
async def test_every_form_of_base64_is_accepted_wherever_base64_is(
    connect: Connect, grey: Grey, to_text: Callable[[bytes], str]
) -> None:
    image = grey(251)
    text = to_text(image)
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}
    bodies: dict[str, dict[str, object]] = {
        "/predict": {"image": text},
        "/embed": {"image": text},
        "/explain": {"image": text},
        "/invocations": {"image": text},
        "/": {"inputs": text},
        "/vertex/predict": {"instances": [{"b64": text}]},
        "/v1/models/fake:predict": {"instances": [{"image_bytes": {"b64": text}}]},
        "/v1/models/fake:explain": {"instances": [text]},
        "/v2/models/fake/infer": {"inputs": [tensor]},
    }
    async with connect(protocols="open_inference,kserve,sagemaker,vertex,huggingface") as client:
        for path, body in bodies.items():
            response = await client.post(path, json=body)
            assert response.status_code == 200, (path, response.text)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(b"a", mtime=0), "gzip"),
        (b"%PDF-1.7\n", "PDF"),
        (b'\n<svg xmlns="http://www.w3.org/2000/svg">', "SVG"),
        (b"<!doctype html>", "HTML"),
        (b"PK\x03\x04\0\0", "ZIP"),
        (b"\xff\x0a\xff", "JPEG XL"),
        (b"\0\0\0\x20ftypisom", "MP4"),
        (base64.b64encode(b"\xff\xd8\xff\xe0\0\x10JFIF"), "base64"),
        (base64.b64encode(b"\x89PNG\r\n\x1a\n\0\0"), "base64"),
        (b"data:image/png;base64,AAAA", "data: URL"),
        (b"=FF=D8=FF=E0", "quoted-printable"),
        (b"photo.jpg", "'photo.jpg'"),
        (b"words", "'words'"),
    ],
)
async def test_what_was_found_instead_of_an_image_is_named_with_the_accepted_formats(
    connect: Connect, problem: CheckProblem, data: bytes, found: str
) -> None:
    async with connect() as client:
        for request in (
            {"content": data, "headers": {"Content-Type": "image/jpeg"}},
            {"content": data, "headers": {"Content-Type": "application/octet-stream"}},
            {"files": {"file": ("photo.jpg", data)}},
            {"json": {"image": base64.b64encode(data).decode()}},
        ):
            detail = problem(await client.post("/predict", **request), 415, "unsupported-media-type")
            assert found in detail
            assert "JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF" in detail
