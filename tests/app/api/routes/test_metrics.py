"""GET /metrics after traffic of every kind."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.app.api.asgi import PNG, Upload, service_of, start
from tests.app.fake_engine import FakeEngine
from tests.app.types import Connect, Grey, MakeApp, Until

pytestmark = pytest.mark.anyio


async def samples(client: httpx.AsyncClient) -> dict[tuple[str, ...], float]:
    """Every sample as ``(name, label value, …)`` → value."""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(sample.name, *sample.labels.values()): sample.value for family in families for sample in family.samples}


async def test_counts_requests_rejections_and_images(connect: Connect, grey: Grey) -> None:
    async with connect(max_upload_bytes=5000) as client:
        for level in (1, 2):
            await client.post("/predict", content=grey(level), headers=PNG)
        await client.post("/predict", content=b"words", headers=PNG)
        await client.post("/predict", content=bytes(5001), headers=PNG)
        await client.post("/predict?top_k=0", content=grey(1), headers=PNG)
        await client.get("/health")
        for path in ("/nowhere", "/nowhere/else"):
            await client.get(path)
        found = await samples(client)
    assert {key[1:]: value for key, value in found.items() if key[0] == "convnext_requests_total"} == {
        ("/predict", "200"): 2,
        ("/predict", "415"): 1,
        ("/predict", "413"): 1,
        ("/predict", "422"): 1,
        ("/health", "200"): 1,
        ("unmatched", "404"): 2,
    }
    assert {key[1]: value for key, value in found.items() if key[0] == "convnext_rejected_total"} == {
        "unsupported-media-type": 1,
        "upload-too-large": 1,
        "invalid-parameter": 1,
    }
    assert found["convnext_request_seconds_count", "/predict"] == 5
    for name in ("batch_size", "inference_seconds", "decode_seconds", "queue_wait_seconds"):
        assert found[f"convnext_{name}_count",] == 2
    assert found["convnext_batch_size_sum",] == 2
    assert 0 < found["convnext_inference_seconds_sum",] < 20
    assert found["convnext_images_in_service",] == 0


async def test_measures_batches_and_the_queue(
    make_app: MakeApp, connect: Connect, engine: FakeEngine, grey: Grey, until: Until
) -> None:
    app = make_app()
    engine.gate.clear()
    async with connect(app) as client:
        tasks = [start(app, Upload(grey(0)))]
        await engine.entered()
        tasks += [start(app, Upload(grey(level))) for level in (1, 2, 3)]
        await until(lambda: service_of(app).queue_length == 3)
        assert (await samples(client))["convnext_images_in_service",] == 4
        engine.gate.set()
        await asyncio.gather(*tasks)
        found = await samples(client)
    assert found["convnext_batch_size_bucket", "1.0"] == 1
    assert found["convnext_batch_size_bucket", "2.0"] == 1
    assert found["convnext_batch_size_bucket", "4.0"] == 2
    assert found["convnext_batch_size_sum",] == 4
    assert found["convnext_queue_wait_seconds_sum",] > 0
