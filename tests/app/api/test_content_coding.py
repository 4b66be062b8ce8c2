"""Compressed bodies: what is accepted, however it is split, and that what they expand to is bounded."""

import asyncio
import gzip
import json
import tracemalloc
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from app.api.content_coding import decompressed
from app.api.problems import InvalidRequest, UnsupportedEncoding
from tests.app.api.asgi import FORM, PART_HEADERS, PNG, Upload, call, context_of
from tests.app.types import CheckProblem, Connect, Grey, MakeApp

pytestmark = pytest.mark.anyio

PART = 1 << 18
DATA = bytes(range(256)) * 20
GZIPPED = gzip.compress(DATA, mtime=0)  # names of tests contain it
GZIP = {"content-encoding": "gzip"}


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def decompress(encodings: Sequence[str], *chunks: bytes) -> bytes:
    return b"".join([part async for part in decompressed(stream(*chunks), encodings)])


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
    ],
)
@pytest.mark.parametrize("data", [b"", b"a", DATA, bytes(3 * PART + 5)])
async def test_each_coding_is_decompressed_however_it_is_split(
    encoding: str, compress: Callable[[bytes], bytes], data: bytes
) -> None:
    sent = compress(data)
    assert await decompress([encoding], sent) == data
    for size in (1, 2, 7, 1000):
        chunks = [sent[start : start + size] for start in range(0, len(sent), size)]
        assert await decompress([encoding], b"", *chunks, b"") == data


@pytest.mark.parametrize(
    "encodings", [["GZIP"], [" gzip "], ["gzip, identity"], ["identity,gzip"], ["gzip,"], ["identity", "gzip"]]
)
async def test_case_spaces_and_identity_do_not_matter(encodings: list[str]) -> None:
    assert await decompress(encodings, GZIPPED) == DATA


@pytest.mark.parametrize("encodings", [[], [""], ["identity"], ["Identity, identity"]])
async def test_without_a_coding_nothing_changes(encodings: list[str]) -> None:
    assert await decompress(encodings, GZIPPED[:10]) == GZIPPED[:10]


@pytest.mark.parametrize("cut", [0, 1, 10, 5000])
async def test_members_and_padding_are_decompressed_as_by_gzip(cut: int) -> None:
    sent = gzip.compress(DATA[:cut]) + gzip.compress(DATA[cut:]) + bytes(512)
    assert await decompress(["gzip"], sent) == gzip.decompress(sent) == DATA
    assert await decompress(["gzip"], *[sent[place : place + 1] for place in range(len(sent))]) == DATA


@pytest.mark.parametrize(
    "encodings", [["br"], ["zstd"], ["compress"], ["gzip, gzip"], ["gzip", "gzip"], ["aws-chunked"], ["x" * 1000]]
)
async def test_other_codings_are_not_supported(encodings: list[str]) -> None:
    with pytest.raises(UnsupportedEncoding):
        await decompress(encodings, b"")


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        ("gzip", b""),
        ("gzip", b"\x1f"),
        ("gzip", GZIPPED[:9]),
        ("gzip", GZIPPED[:-1]),
        ("gzip", GZIPPED[:50] + b"\xff" * 20 + GZIPPED[70:]),
        ("gzip", GZIPPED[:-8] + bytes(8)),
        ("gzip", GZIPPED + b"more"),
        ("gzip", GZIPPED + GZIPPED[:-1]),
        ("gzip", GZIPPED + b"\x1f\x00" + bytes(20)),
        ("gzip", b"\x89PNG\r\n\x1a\n"),
        ("gzip", zlib.compress(DATA)),
        ("deflate", b""),
        ("deflate", b"\x78"),
        ("deflate", zlib.compress(DATA)[:-1]),
        ("deflate", zlib.compress(DATA)[:-4] + bytes(4)),
        ("deflate", zlib.compress(DATA) + b"more"),
        ("deflate", raw_deflate(DATA)[:-1]),
        ("deflate", b"\xff\xff\xff\xff"),
    ],
)
async def test_damaged_data_is_an_error(encoding: str, sent: bytes) -> None:
    with pytest.raises(InvalidRequest, match=encoding):
        await decompress([encoding], sent)
    with pytest.raises(InvalidRequest, match=encoding):
        await decompress([encoding], *[sent[place : place + 1] for place in range(len(sent))])


async def test_a_thousand_members_are_accepted_and_more_are_not() -> None:
    member = gzip.compress(b"a")
    assert await decompress(["gzip"], member * 1000) == b"a" * 1000
    with pytest.raises(InvalidRequest):
        await decompress(["gzip"], member * 1001)


async def test_other_tasks_run_between_the_parts_of_a_bomb() -> None:
    sent, turns = gzip.compress(bytes(40 * PART)), 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(take_turns())
    sizes = [len(part) async for part in decompressed(stream(sent), ["gzip"])]
    task.cancel()
    assert max(sizes) == PART
    assert turns >= 40


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """Less than a megabyte, which expands to a gigabyte."""
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    zeros = bytes(1 << 20)
    return b"".join([*(compressor.compress(zeros) for _ in range(1024)), compressor.flush()])


@pytest.mark.parametrize("headers", [PNG, {}, FORM, {"content-type": "application/json"}])
@pytest.mark.parametrize("chunk_bytes", [65_536, 2**20])
async def test_a_bomb_is_bounded_by_the_limit_of_an_upload(
    make_app: MakeApp,
    connect: Connect,
    problem: CheckProblem,
    bomb: bytes,
    headers: dict[str, str],
    chunk_bytes: int,
) -> None:
    limit = 4_000_000
    app = make_app(max_upload_bytes=limit)
    start = gzip.compress(PART_HEADERS) if headers is FORM else b""
    sent = start + bomb
    chunks = [sent[place : place + chunk_bytes] for place in range(0, len(sent), chunk_bytes)]
    upload = Upload(*chunks)
    async with connect(app):
        await call(app, Upload(b"a"))  # loads what is loaded once
        tracemalloc.start()
        try:
            response = await call(app, upload, headers=headers | GZIP)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert str(limit) in problem(response, 413, "upload-too-large")
    assert peak_bytes < 4 * limit
    assert upload.received == 1
    assert context_of(app).uploads.buffered_bytes == 0


async def test_images_forms_and_json_may_be_compressed(make_app: MakeApp, connect: Connect, grey: Grey) -> None:
    app, image = make_app(), grey(6)
    bodies = {
        "image/png": image,
        "multipart/form-data; boundary=x": PART_HEADERS + image + b"\r\n--x--\r\n",
        "application/json": json.dumps({"image": b64encode(image).decode()}).encode(),
    }
    async with connect(app):
        for content_type, body in bodies.items():
            for encoding, sent in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
                headers = {"content-type": content_type, "content-encoding": encoding, "content-length": str(len(sent))}
                response = await call(app, Upload(sent[:9], sent[9:]), headers=headers)
                assert response.json()["predictions"][0]["class_id"] == 6


async def test_an_unsupported_coding_is_named_with_those_that_are_accepted(
    make_app: MakeApp, connect: Connect, problem: CheckProblem
) -> None:
    app = make_app()
    async with connect(app):
        for path in ("/predict", "/embed", "/explain"):
            response = await call(app, Upload(b"a"), path, PNG | {"content-encoding": "br"})
            detail = problem(response, 415, "unsupported-media-type")
            assert "'br'" in detail
            assert "gzip" in detail
            assert response.headers["accept-encoding"] == "gzip, deflate"


async def test_data_that_is_not_compressed_is_described(
    make_app: MakeApp, connect: Connect, problem: CheckProblem, grey: Grey
) -> None:
    app = make_app()
    async with connect(app):
        response = await call(app, Upload(grey(1)), headers=PNG | GZIP)
    detail = problem(response, 400, "invalid-request")
    assert "Content-Encoding" in detail
    assert "89 50 4e 47" in detail
