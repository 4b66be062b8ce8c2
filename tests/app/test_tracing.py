"""Traces by OpenTelemetry, read from the SDK's own exporter."""

import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.api.access_log import AccessEntry
from tests.app.types import Connect, Grey

pytestmark = pytest.mark.anyio

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """Receives every span of this process; OpenTelemetry's provider can be set only once."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The exporter, without spans of earlier tests."""
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "none")
    exporter.clear()
    return exporter


def by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


async def test_a_request_continues_the_trace_of_its_client_with_a_span_per_phase(
    connect: Connect, grey: Grey, spans: InMemorySpanExporter
) -> None:
    headers = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}
    async with connect(tracing=True) as client:
        response = await client.post("/predict", files={"file": grey(1)}, headers=headers)
        assert response.status_code == 200
    found = by_name(spans)
    assert set(found) == {"POST /predict", "decode", "queue", "inference"}
    request = found.pop("POST /predict")
    assert request.parent is not None
    assert format(request.context.trace_id, "032x") == TRACE_ID
    for span in found.values():
        assert span.parent == request.context
    assert found["decode"].end_time == found["queue"].start_time
    assert found["queue"].end_time == found["inference"].start_time


async def test_the_access_log_has_the_ids_of_the_trace(
    connect: Connect, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with connect(tracing=True) as client:
        await client.get("/model")
    [record] = [record for record in caplog.records if record.name == "app.access"]
    assert isinstance(record.msg, AccessEntry)
    context = by_name(spans)["GET /model"].context
    assert context is not None
    assert record.msg.fields()["trace_id"] == format(context.trace_id, "032x")
    assert record.msg.fields()["span_id"] == format(context.span_id, "016x")


async def test_probes_and_scrapes_are_not_traced(connect: Connect, spans: InMemorySpanExporter) -> None:
    async with connect(tracing=True) as client:
        for path in ("/health", "/health/live", "/health/ready", "/metrics"):
            await client.get(path)
    assert by_name(spans) == {}


async def test_nothing_is_traced_by_default(connect: Connect, grey: Grey, spans: InMemorySpanExporter) -> None:
    async with connect() as client:
        await client.post("/predict", files={"file": grey(1)})
    assert by_name(spans) == {}
