"""Real HTTP clients classify a photo over a socket."""

import asyncio
import base64
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests

_TIMEOUT_S = 60
_JPEG = {"Content-Type": "image/jpeg"}

Result = dict[str, Any]  # Any: JSON

_JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.file.Path;

class Classify {
    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int round = 0; round < 2; round++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0]))
                .header("Content-Type", "image/jpeg")
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1])))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            if (response.statusCode() != 200) throw new IllegalStateException(response.body());
            if (round == 1) System.out.print(response.body());
        }
    }
}
"""

_NODE = """
const { readFileSync } = require("node:fs");
const [url, path] = process.argv.slice(2);
(async () => {
  const form = new FormData();
  form.append("file", new Blob([readFileSync(path)], { type: "image/jpeg" }), "Größe 1.jpg");
  const response = await fetch(url, { method: "POST", body: form });
  if (response.status !== 200) throw new Error(await response.text());
  process.stdout.write(await response.text());
})();
"""


_NODE_BYTES = """
const { readFileSync } = require("node:fs");
const [url, path] = process.argv.slice(2);
(async () => {
  // As the package form-data does with a Buffer: no file name, and a type that says nothing.
  const boundary = "--------------------------" + "1".repeat(24);
  const disposition = 'Content-Disposition: form-data; name="file"';
  const head = [`--${boundary}`, disposition, "Content-Type: application/octet-stream", "", ""].join("\\r\\n");
  const body = Buffer.concat([Buffer.from(head), readFileSync(path), Buffer.from(`\\r\\n--${boundary}--\\r\\n`)]);
  const headers = { "Content-Type": `multipart/form-data; boundary=${boundary}` };
  const response = await fetch(url, { method: "POST", body, headers });
  if (response.status !== 200) throw new Error(await response.text());
  const blob = new FormData();
  blob.append("file", new Blob([readFileSync(path)]));
  const second = await fetch(url, { method: "POST", body: blob });
  if ((await second.text()) !== (await response.text())) throw new Error("the answers differ");
  process.stdout.write(await (await fetch(url, { method: "POST", body: readFileSync(path) })).text());
})();
"""


def run(program: str, *arguments: str) -> str:
    """The output of a program. Skips the test if it is not installed."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    process = subprocess.run(
        [path, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environment
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def curl(*arguments: str) -> Result:
    """What curl prints, as JSON."""
    result: Result = json.loads(run("curl", "--silent", "--show-error", "--fail-with-body", *arguments))
    return result


def classify(service_url: str, path: Path) -> Result:
    url = f"{service_url}/predict"
    response = httpx.post(url, content=path.read_bytes(), headers=_JPEG, timeout=_TIMEOUT_S, trust_env=False)
    assert response.status_code == 200
    result: Result = response.json()
    assert len(result["predictions"]) == 5
    return result


@pytest.fixture(scope="module")
def url(service_url: str) -> str:
    """The address of predictions."""
    return f"{service_url}/predict"


@pytest.fixture(scope="module")
def expected(service_url: str, photo_path: Path) -> Result:
    """The classification of the small photo."""
    return classify(service_url, photo_path)


def test_curl_form(url: str, photo_path: Path, expected: Result) -> None:
    assert curl("--form", f"file=@{photo_path}", url) == expected


def test_curl_form_with_an_upgrade_to_http2(url: str, photo_path: Path, expected: Result) -> None:
    assert curl("--http2", "--form", f"file=@{photo_path}", url) == expected


def test_curl_binary_body(url: str, photo_path: Path, expected: Result) -> None:
    assert curl("--data-binary", f"@{photo_path}", "--header", "Content-Type: image/jpeg", url) == expected


def test_curl_chunked_body(url: str, photo_path: Path, expected: Result) -> None:
    headers = ("--header", "Content-Type: image/jpeg", "--header", "Transfer-Encoding: chunked")
    assert curl("--data-binary", f"@{photo_path}", *headers, url) == expected


@pytest.mark.parametrize("form", [True, False])
def test_curl_waits_for_100_continue(service_url: str, url: str, large_photo_path: Path, form: bool) -> None:
    raw = ("--data-binary", f"@{large_photo_path}", "--header", "Content-Type: image/jpeg")
    body = ("--form", f"file=@{large_photo_path}") if form else raw
    # Without a 100 Continue, curl would send the body after this time, which is more than the test may take.
    options = ("--expect100-timeout", str(2 * _TIMEOUT_S), "--header", "Expect: 100-continue")
    assert curl(*options, *body, url) == classify(service_url, large_photo_path)


def test_curl_does_not_send_a_body_that_is_rejected(url: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(20_000_001))
    options = ("--expect100-timeout", str(2 * _TIMEOUT_S), "--header", "Expect: 100-continue")
    output = run(
        *("curl", "--silent", *options, "--data-binary", f"@{path}", "--header", "Content-Type: image/jpeg"),
        *("--write-out", "\n%{http_code} %{size_upload}", url),
    )
    assert output.splitlines()[-1] == "413 0"


def test_wget_post_file(url: str, photo_path: Path, expected: Result) -> None:
    output = run("wget", "-q", "-O", "-", "--header=Content-Type: image/jpeg", f"--post-file={photo_path}", url)
    assert json.loads(output) == expected


def test_java_http_client(url: str, photo_path: Path, expected: Result, tmp_path: Path) -> None:
    source = tmp_path / "Classify.java"
    source.write_text(_JAVA, encoding="utf-8")
    copy = tmp_path / "photo.jpg"  # Java's file names depend on the locale
    shutil.copyfile(photo_path, copy)
    assert json.loads(run("java", str(source), url, str(copy))) == expected


@pytest.mark.parametrize("script", [_NODE, _NODE_BYTES], ids=["form data", "bytes"])
def test_node_fetch(url: str, photo_path: Path, expected: Result, tmp_path: Path, script: str) -> None:
    source = tmp_path / "classify.js"
    source.write_text(script, encoding="utf-8")
    assert json.loads(run("node", str(source), url, str(photo_path))) == expected


def test_requests_files_and_body(url: str, photo_path: Path, expected: Result) -> None:
    with requests.Session() as session:
        session.trust_env = False
        with photo_path.open("rb") as file:
            assert session.post(url, files={"file": file}, timeout=_TIMEOUT_S).json() == expected
        with photo_path.open("rb") as file:
            assert session.post(url, data=file, headers=_JPEG, timeout=_TIMEOUT_S).json() == expected


def test_httpx_files_and_body(url: str, photo_path: Path, expected: Result) -> None:
    with httpx.Client(trust_env=False, timeout=_TIMEOUT_S) as client:
        with photo_path.open("rb") as file:
            assert client.post(url, files={"file": file}).json() == expected
        with photo_path.open("rb") as file:
            assert client.post(url, content=file, headers=_JPEG).json() == expected


def test_aiohttp_form_and_body(url: str, photo_path: Path, expected: Result) -> None:
    data = photo_path.read_bytes()

    async def classify_twice() -> list[Result]:
        form = aiohttp.FormData()
        form.add_field("file", data, filename=photo_path.name, content_type="image/jpeg")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session:
            results: list[Result] = []
            async with session.post(url, data=form) as response:
                results.append(await response.json())
            async with session.post(url, data=data, headers=_JPEG) as response:
                results.append(await response.json())
            return results

    assert asyncio.run(classify_twice()) == [expected, expected]


def test_curl_form_with_the_content_as_text(url: str, photo_path: Path, expected: Result) -> None:
    assert curl("--form", f"file=<{photo_path}", url) == expected
    assert curl("--form", f"file=<{photo_path};type=image/jpeg", url) == expected


def test_curl_http_1_0(url: str, photo_path: Path, expected: Result) -> None:
    assert curl("--http1.0", "--form", f"file=@{photo_path}", url) == expected
    assert curl("--http1.0", "--data-binary", f"@{photo_path}", "--header", "Content-Type: image/jpeg", url) == expected


def test_curl_compressed_body(url: str, photo_path: Path, expected: Result, tmp_path: Path) -> None:
    compressed = tmp_path / "photo.gz"
    compressed.write_bytes(gzip.compress(photo_path.read_bytes()))
    for headers in ((), ("--header", "Transfer-Encoding: chunked")):
        options = ("--header", "Content-Encoding: gzip", "--header", "Content-Type: image/jpeg", *headers)
        assert curl("--data-binary", f"@{compressed}", *options, url) == expected


def test_curl_json_without_its_content_type(url: str, photo_path: Path, expected: Result, tmp_path: Path) -> None:
    document = tmp_path / "photo.json"
    document.write_text(json.dumps({"image": base64.b64encode(photo_path.read_bytes()).decode()}), encoding="utf-8")
    assert curl("--data", f"@{document}", url) == expected


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", "text/plain"])
def test_requests_parts_without_a_file_name(url: str, photo_path: Path, expected: Result, content_type: str) -> None:
    photo = photo_path.read_bytes()
    with requests.Session() as session:
        session.trust_env = False
        for part in ((None, photo), (None, photo, content_type), ("", photo, content_type)):
            assert session.post(url, files={"file": part}, timeout=_TIMEOUT_S).json() == expected
        assert session.post(url, data={"file": photo}, files={"x": b""}, timeout=_TIMEOUT_S).status_code == 400


def test_aiohttp_parts_without_a_file_name(url: str, photo_path: Path, expected: Result) -> None:
    photo = photo_path.read_bytes()

    async def classify_all() -> list[Result]:
        results: list[Result] = []
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_TIMEOUT_S)) as session:
            for options in ({"content_type": "image/jpeg"}, {"content_type": "application/octet-stream"}):
                form = aiohttp.FormData()
                form.add_field("file", io.BytesIO(photo), **options)
                async with session.post(url, data=form) as response:
                    results.append(await response.json())
            async with session.post(url, data=photo, headers=_JPEG, compress="gzip") as response:
                results.append(await response.json())
            async with session.post(url, data=photo, headers=_JPEG, compress="deflate") as response:
                results.append(await response.json())
        return results

    assert asyncio.run(classify_all()) == [expected] * 4


def test_http_1_0_without_keep_alive(service_url: str, photo_path: Path, expected: Result) -> None:
    photo = photo_path.read_bytes()
    host, port = service_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), _TIMEOUT_S) as connection:
        head = f"POST /predict HTTP/1.0\r\nContent-Type: image/jpeg\r\nContent-Length: {len(photo)}\r\n\r\n"
        connection.sendall(head.encode() + photo)
        with connection.makefile("rb") as stream:
            answer = stream.read()  # the server closes the connection
    headers, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in headers.splitlines()[0]
    assert json.loads(body) == expected


@pytest.mark.parametrize(
    "names",
    [
        "name=file; filename=photo.jpg; filename*=utf-8''photo.jpg",
        'name="file"; filename="=?utf-8?B?R3LDtsOfZS5qcGc=?="; filename*=utf-8Gr%C3%B6%C3%9Fe.jpg',
        "name=file; filename*=utf-8''Gr%C3%B6%C3%9Fe.jpg",
    ],
)
def test_dotnet_headers(url: str, photo_path: Path, expected: Result, names: str) -> None:
    boundary = "6f1a7c2e-0f0b-4d0e-9f6b-1c2d3e4f5a6b"  # .NET quotes it
    head = f"--{boundary}\r\nContent-Type: image/jpeg\r\nContent-Disposition: form-data; {names}\r\n\r\n"
    body = head.encode() + photo_path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}
    assert httpx.post(url, content=body, headers=headers, timeout=_TIMEOUT_S, trust_env=False).json() == expected
