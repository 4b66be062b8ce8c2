"""Hostile input: whatever arrives, every request gets a response in time that is no 500, within the memory formula."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.reliability.images import bombs, damaged, encode, photo, sources
from tests.reliability.load import RESET, Response, connect, percentile, post
from tests.reliability.process import SERVICE, WORKERS, ServerProcess
from tests.reliability.report import Figures

SECTION = "Hostile input"
DEADLINE_S = 10
MARGIN_S = 5  # for a machine that is busy
CONNECTIONS = 8
PIXELS = 10_000_000
BUFFERED_BYTES = 200_000_000
THREADS = 2
MB = 1_000_000
ALLOWED = {200, 400, 413, 415, 422, 503, 504}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, figures: Figures) -> Iterator[ServerProcess]:
    """The service with its embedded model and limits that the memory formula makes small."""
    figures.add(SECTION, "input", "requests", "statuses", "slowest response, s")
    settings = {"max_image_pixels": PIXELS, "max_buffered_bytes": BUFFERED_BYTES, "decode_threads": THREADS}
    log_path = tmp_path_factory.mktemp("hostile") / "log"
    with ServerProcess(log_path, *SERVICE, port=0, request_timeout_s=DEADLINE_S, **settings) as process:
        yield process.wait_until_ready()


async def send_all(port: int, requests: Sequence[bytes]) -> list[tuple[Response, float]]:
    """The response to each request and its latency; a connection that the server closes is replaced."""
    waiting = iter(requests)
    found: list[tuple[Response, float]] = []

    async def work() -> None:
        connection = await connect(port)
        for request in waiting:
            if not connection.open:
                connection = await connect(port)
            sent_at = time.monotonic()
            found.append((await connection.ask(request), time.monotonic() - sent_at))
        connection.close()

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    return found


def check(server: ServerProcess, figures: Figures, name: str, requests: Sequence[bytes]) -> list[Response]:
    """Sends the requests, and asserts that each has a response of an allowed status before the deadline."""
    found = asyncio.run(send_all(server.port, requests))
    statuses = Counter(response.status for response, _ in found)
    slowest_s = max(latency_s for _, latency_s in found)
    figures.add(SECTION, name, len(requests), tally(statuses), slowest_s)
    assert len(found) == len(requests)
    assert set(statuses) <= ALLOWED
    assert slowest_s < DEADLINE_S + MARGIN_S
    for response, _ in found:
        body = json.loads(response.body)
        assert response.status == 200 or body["status"] == response.status
    return [response for response, _ in found]


def tally(statuses: Counter[int]) -> str:
    """Statuses and how often each occurred, as text."""
    return ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))


def test_damaged_images_get_a_prediction_or_a_problem(server: ServerProcess, figures: Figures, long: bool) -> None:
    generator = random.Random(0)  # noqa: S311 - repeatable damage
    files = list(sources().values())
    for _ in range(20 if long else 1):
        bodies = (damaged(generator.choice(files), generator) for _ in range(4000))
        responses = check(server, figures, f"damaged images of {len(files)} kinds", [post(body, "") for body in bodies])
        assert {200, 415, 422} <= {response.status for response in responses}


def multipart_bodies(count: int) -> Iterator[tuple[str, bytes]]:
    """Content type and body of forms put together from valid and invalid pieces at random."""
    generator = random.Random(1)  # noqa: S311 - repeatable forms
    image = encode(photo(40, 30), "JPEG")
    disposition = b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n'
    valid = [b"--xyz\r\n", disposition, b"\r\n", image, b"\r\n--xyz--\r\n"]
    pieces = [*valid, b"--xyz--", b"\r", b"\n", b"--", b"Content-Disposition: form-data; name*=UTF-8''file\r\n"]
    pieces += [b"Content-Disposition: ;;;=\r\n", b": x\r\n", b"Content-Type: multipart/mixed; boundary=xyz\r\n"]
    pieces += [b"Content-Transfer-Encoding: base64\r\n", b"a: " + b"b" * 9000, bytes(range(256)), b"\xff" * 70]
    types = ["multipart/form-data; boundary=xyz"] * 6
    types += ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 300, 'multipart/form-data; boundary="']
    types += ["multipart/form-data; boundary=xyz; charset=undefined", "multipart/mixed; boundary=xyz", "\xff/\xfe"]
    for _ in range(count):
        parts = list(valid)
        for _ in range(generator.randrange(4)):
            position = generator.randrange(len(parts) + 1)
            parts[position : position + generator.randrange(2)] = [generator.choice(pieces)]
        yield generator.choice(types), b"".join(parts)


def test_random_multipart_bodies_get_a_prediction_or_a_problem(
    server: ServerProcess, figures: Figures, long: bool
) -> None:
    requests = [post(body, kind) for kind, body in multipart_bodies(18_000 if long else 900)]
    responses = check(server, figures, "random multipart bodies", requests)
    assert {200, 400, 415} <= {response.status for response in responses}


def test_files_built_to_exhaust_decoders_are_rejected_or_decoded_within_the_deadline(
    server: ServerProcess, figures: Figures
) -> None:
    names, files = zip(*bombs(), strict=True)
    responses = check(server, figures, f"{len(names)} bombs, twice each", [post(file, "") for file in files * 2])
    assert {200, 422} <= {response.status for response in responses}


POST = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %s\r\nSec-WebSocket-Version: 13\r\n\r\n"
MALFORMED = {
    "header of 1 MB": (b"GET / HTTP/1.1\r\nX: " + bytes([97]) * MB, {431}),
    "endless headers": (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200_000, {431}),
    "endless trailers": (CHUNKED + b"3\r\nabc\r\n0\r\n" + b"a: b\r\n" * 100_000, {431, 415}),
    "invalid chunk size": (CHUNKED + b"xyz\r\n", {400}),
    "huge chunk size": (CHUNKED + b"f" * 40 + b"\r\n", {400}),
    "two content lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", {400}),
    "negative content length": (POST + b"Content-Length: -1\r\n\r\n", {400}),
    "content length of 400 digits": (POST + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", {400, 413}),
    "length and chunked": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
    "unknown transfer encoding": (POST + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
    "no host": (b"GET /health HTTP/1.1\r\n\r\n", {400}),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400}),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 505}),
    "HTTP/9.9": (b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n", {200, 400, 505}),
    "upgrade to h2c": (UPGRADE % b"h2c", {200}),
    "upgrade to websocket": (UPGRADE % b"websocket", {200, 400}),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "NUL in the target": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", {400}),
    "path outside": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", {404}),
    "HTTP/1.0": (b"GET /health HTTP/1.0\r\n\r\n", {200}),
    "stalled headers": (b"GET /health HTTP/1.1\r\nHost:", {408}),
    "stalled body": (POST + b"Content-Length: 1000\r\n\r\nabc", {408, 504}),
    "stalled chunk": (CHUNKED + b"ff\r\nabc", {408, 504}),
    "stalled form": (
        POST.replace(b"image/png", b"multipart/form-data; boundary=x") + b"Content-Length: 9\r\n\r\n--x",
        {504},
    ),
}


async def exchange(port: int, sent: bytes) -> int:
    """The status of the first response to raw bytes; ``RESET`` if the connection ends without one."""
    connection = await connect(port)
    response = await connection.ask(sent)
    connection.close()
    return response.status


def test_malformed_http_gets_an_error_or_a_closed_connection(server: ServerProcess, figures: Figures) -> None:
    async def run() -> list[int]:
        async with asyncio.timeout(DEADLINE_S + MARGIN_S):
            return await asyncio.gather(*(exchange(server.port, sent) for sent, _ in MALFORMED.values()))

    started_at = time.monotonic()
    found = dict(zip(MALFORMED, asyncio.run(run()), strict=True))
    statuses = Counter(found.values())
    name = "malformed, stalled and unusual HTTP (0: closed while sending)"
    figures.add(SECTION, name, len(found), tally(statuses), time.monotonic() - started_at)
    may_reset = {"header of 1 MB", "endless headers", "endless trailers"}  # closed with unread data
    unexpected = {
        name: status
        for name, status in found.items()
        if status not in MALFORMED[name][1] and not (status == RESET and name in may_reset)
    }
    assert unexpected == {}


def test_random_bytes_get_a_400_or_a_closed_connection(server: ServerProcess, figures: Figures, long: bool) -> None:
    generator = random.Random(2)  # noqa: S311 - repeatable bytes
    valid = POST + b"Content-Length: 5\r\n\r\nabcde"
    texts = [damaged(valid, generator) + b"\r\n\r\n" for _ in range(2000 if long else 100)]
    texts += [generator.randbytes(generator.randrange(1, 300)) + b"\r\n\r\n" for _ in texts]

    async def run() -> list[int]:
        return await asyncio.gather(*(exchange(server.port, text) for text in texts))

    started_at = time.monotonic()
    statuses = Counter(asyncio.run(run()))
    figures.add(SECTION, "random bytes as HTTP", len(texts), tally(statuses), time.monotonic() - started_at)
    assert set(statuses) <= {400, 404, 405, 408, 413, 415, 422, 431, 504}


def test_pipelined_requests_get_their_responses(server: ServerProcess) -> None:
    async def run() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 499)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(30):
            data = await reader.read(-1)
        writer.close()
        return data

    assert asyncio.run(run()).count(b"HTTP/1.1 200 OK") == 500


def test_afterwards_the_service_is_ready_and_its_peak_memory_is_within_the_formula(
    server: ServerProcess, figures: Figures
) -> None:
    weights = 2 * sum(path.stat().st_size for path in Path("model/pretrained").glob("*.safetensors"))  # in float32
    each = 900 * MB + 7 * weights + THREADS * PIXELS * 20
    bound = WORKERS * each + BUFFERED_BYTES + 1024 * 224 * 224 * 3
    peak = server.memory("VmHWM")
    figures.add(SECTION, f"peak RSS {peak / MB:.0f} MB, formula {bound / MB:.0f} MB", "", "", "")
    assert server.popen.poll() is None
    assert server.status("/health/ready") == server.status("/health/live") == 200
    assert server.metric('convnext_requests_total{route="/predict",status="500"}') == 0
    assert "Traceback" not in server.log()
    assert peak < bound
    image = post(encode(photo(), "JPEG"))
    latencies = [latency_s for _, latency_s in asyncio.run(send_all(server.port, [image] * 16))]
    assert percentile(latencies, 50) < DEADLINE_S
