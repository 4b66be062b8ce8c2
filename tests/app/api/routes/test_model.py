"""GET /model and /model/labels."""

import pytest

pytestmark = pytest.mark.anyio


async def test_the_model_is_described(connect):
    async with connect() as client:
        assert (await client.get("/model")).json() == {
            "name": "fake",
            "family": "native",
            "num_labels": 256,
            "input_size": 8,
            "parameters": 1,
            "device": "cpu",
            "precision": "float32",
            "mode": "eager",
            "max_batch_size": 8,
            "licence": "CC0-1.0",
            "sha256": "f" * 64,
        }


async def test_labels_stand_at_their_class_id(connect):
    async with connect() as client:
        labels = (await client.get("/model/labels")).json()["labels"]
    assert labels == [f"grey {level}" for level in range(256)]


@pytest.mark.parametrize("path", ["/model", "/model/labels"])
async def test_before_the_start_there_is_no_model(make_app, connect, problem, path):
    app = make_app()
    async with connect(app) as client:
        app.state.context.service, classifier = None, app.state.context.service
        problem(await client.get(path), 503, "unavailable")
        app.state.context.service = classifier
