"""GET /model and /model/labels."""

import pytest

from tests.app.types import Connect

pytestmark = pytest.mark.anyio


async def test_describes_the_model(connect: Connect) -> None:
    async with connect() as client:
        assert (await client.get("/model")).json() == {
            "name": "fake",
            "family": "native",
            "activation": "softmax",
            "num_labels": 256,
            "input_size": 8,
            "parameters": 1,
            "device": "cpu",
            "precision": "float32",
            "precision_reason": "requested",
            "mode": "eager",
            "max_batch_size": 8,
            "licence": "CC0-1.0",
            "sha256": "f" * 64,
        }


async def test_labels_are_in_the_order_of_their_class_id(connect: Connect) -> None:
    async with connect() as client:
        labels = (await client.get("/model/labels")).json()["labels"]
    assert labels == [f"grey {level}" for level in range(256)]
