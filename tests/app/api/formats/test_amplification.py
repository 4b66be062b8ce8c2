"""A malformed body gets a short response soon, however many errors it has: meanwhile, nothing else runs."""

import time

import pytest

from tests.app.types import Connect

pytestmark = pytest.mark.anyio

_PREDICT, _EXPLAIN = "/v1/models/fake:predict", "/v1/models/fake:explain"
_INFER = "/v2/models/fake/infer"
_MANY = 200_000  # values, less than the limit for JSON
_MEMBERS = ", ".join(f'"a{number}": 1' for number in range(45_000))
_LONG = "x" * 5_000_000
_INPUT = '{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AA=="]}'


def _values(value: str) -> str:
    return ", ".join([value] * _MANY)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (_INFER, f'{{"inputs": [{_values("1")}]}}'),
        (_INFER, f'{{"inputs": [{{"name": "image", "datatype": "BYTES", "shape": [{_values("true")}]}}]}}'),
        (_INFER, f'{{"inputs": [{{"name": "image", "datatype": "BYTES", "shape": [{_values("null")}]}}]}}'),
        (_INFER, f'{{"inputs": [{_INPUT}], "outputs": [{_values("1")}]}}'),
        (_INFER, f'{{"inputs": [{_INPUT}], "outputs": [{", ".join(["{}"] * _MANY)}]}}'),
        (_INFER, f'{{"inputs": [{_INPUT}], "outputs": [{{"name": "{_LONG}"}}]}}'),
        (_INFER, f'{{"inputs": [{{"name": "image", "datatype": "{_LONG}", "shape": [1], "data": ["AA=="]}}]}}'),
        (_INFER, f'{{"inputs": [{_INPUT}], "parameters": {{"top_k": "{_LONG}"}}}}'),
        (_PREDICT, f'{{"instances": [{{{_MEMBERS}}}]}}'),
        (_PREDICT, f'{{"instances": [{{{_MEMBERS}, "image": {{"b64": "%"}}}}]}}'),
        (_PREDICT, f'{{"inputs": {{{_MEMBERS}}}}}'),
        (_PREDICT, f'{{"instances": ["AA=="], "parameters": {{{_MEMBERS}}}}}'),
        (_EXPLAIN, f'{{"instances": ["AA=="], "parameters": {{{_MEMBERS}}}}}'),
        (_EXPLAIN, f'{{"instances": ["AA=="], "parameters": {{"{_LONG}": 1}}}}'),
        ("/vertex/predict", f'{{"instances": [{{{_MEMBERS}}}]}}'),
        ("/", f'{{"inputs": [{_values("1")}], "parameters": {{{_MEMBERS}}}}}'),
    ],
    ids=range(16),
)
async def test_many_errors_get_one_short_response_soon(connect: Connect, path: str, body: str) -> None:
    async with connect(protocols={"open_inference", "kserve", "vertex", "huggingface"}) as client:
        spent = []
        for _ in range(3):  # a garbage collection may fall into one of them
            started = time.thread_time()
            response = await client.post(path, content=body, headers={"Content-Type": "application/json"})
            spent.append(time.thread_time() - started)
            assert (response.status_code, list(response.json())) == (400, ["error"])
            assert len(response.content) < 10_000
    assert min(spent) < 0.2
