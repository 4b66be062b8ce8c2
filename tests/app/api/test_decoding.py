"""JSON and base64 of every size, against the standard library."""

import base64
import random
import time
from collections.abc import Callable

import pytest

from app.api.decoding import MAX_JSON_BYTES, decode_base64, parse_json
from app.api.problems import InvalidRequest, UploadTooLarge

pytestmark = pytest.mark.anyio

CHUNK = 1 << 18


@pytest.mark.parametrize("size", [1, 2, 3, 4, 1000, CHUNK * 3 // 4 - 1, CHUNK * 3 // 4, CHUNK, 5 * CHUNK + 1])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
async def test_base64_of_every_size_is_decoded(size: int, encode: Callable[[bytes], bytes]) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311 - test data
    text = encode(data).decode()
    assert await decode_base64(text) == data
    assert await decode_base64(f"data:image/png;base64,{text}") == data


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AAAAA",
        "AA=A",
        "AA==AAAA",
        "A" * (CHUNK - 4) + "AAA=" + "AAAA",
        "A" * (2 * CHUNK) + "AA==AA==",
        "AAA=" + "A" * (4 * CHUNK),
        "A" * CHUNK + "%AAA",
        "A" * CHUNK + "ä",
        "",
        "  ",
        "data:text/plain,AAAA",
        " https://localhost/photo.jpg",
    ],
)
async def test_what_is_not_base64_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequest):
        await decode_base64(text)


async def test_the_size_of_json_is_limited() -> None:
    assert parse_json(b'"' + b"A" * (MAX_JSON_BYTES - 2) + b'"')
    with pytest.raises(UploadTooLarge):
        parse_json(b'"' + b"A" * MAX_JSON_BYTES + b'"')


EXPENSIVE = {
    "integers": b"[" + b"0," * 249_000 + b"0]",
    "fractions": b"[" + b"0.7134650519," * 249_000 + b"0]",
    "objects": b"[" + b"{}," * 120_000 + b"{}]",
    "members": b"{" + b",".join(b'"k%d":1' % number for number in range(49_000)) + b"}",
    "escapes": b'"' + b"\\u0041" * 1_600_000 + b'"',
}


@pytest.mark.parametrize("name", EXPENSIVE)
def test_json_does_not_keep_the_event_loop_busy_for_long(name: str) -> None:
    spent = []
    for _ in range(3):  # a garbage collection may fall into one of them
        started = time.thread_time()
        assert parse_json(EXPENSIVE[name])
        spent.append(time.thread_time() - started)
    assert min(spent) < 0.1


@pytest.mark.parametrize("body", [b"[" + b"0," * 260_000 + b"0]", b"{" + b'"a":0,' * 60_000 + b'"a":0}', b'"\\ud800"'])
def test_too_many_values_and_invalid_text_are_errors(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_json(body)
