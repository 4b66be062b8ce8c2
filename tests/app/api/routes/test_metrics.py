"""GET /metrics after traffic of every kind."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


async def samples(client) -> dict[tuple[str, ...], float]:
    """Every sample as ``(name, label value, …)`` → value."""
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.text)
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def test_traffic_is_counted(connect, engine, grey):
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


async def test_batches_and_the_queue_are_measured(connect, engine, grey, until):
    engine.gate.clear()
    async with connect() as client:
        tasks = [asyncio.ensure_future(client.post("/predict", content=grey(0), headers=PNG))]
        await engine.entered()
        tasks += [asyncio.ensure_future(client.post("/predict", content=grey(v), headers=PNG)) for v in (1, 2, 3)]
        await until(lambda: client.app.state.context.service.queue_length == 3)
        assert (await samples(client))["convnext_images_in_service",] == 4
        engine.gate.set()
        await asyncio.gather(*tasks)
        found = await samples(client)
    assert found["convnext_batch_size_bucket", "1.0"] == 1
    assert found["convnext_batch_size_bucket", "2.0"] == 1
    assert found["convnext_batch_size_bucket", "4.0"] == 2
    assert found["convnext_batch_size_sum",] == 4
    assert found["convnext_queue_wait_seconds_sum",] > 0


async def test_the_process_is_measured_too(connect):
    async with connect() as client:
        found = await samples(client)
    assert found["process_cpu_seconds_total",] > 0


async def test_applications_count_apart(make_app, connect):
    async with connect() as one, connect() as other:
        await one.get("/health")
        assert ("convnext_requests_total", "/health", "200") in await samples(one)
        assert ("convnext_requests_total", "/health", "200") not in await samples(other)
