"""AccessEntry: one request as text and as fields."""

import logging
from urllib.parse import unquote

import pytest

from app.api.access_log import AccessEntry
from tests.app.api.asgi import PNG, service_of
from tests.app.types import Connect, MakeApp

PREDICT = AccessEntry("POST", "/predict", "/predict", 200, 0.0123456, "abc", None)


def test_text_has_the_duration_in_milliseconds_and_the_request_id() -> None:
    assert str(PREDICT) == "POST /predict 200 12.3 ms id=abc"


def test_fields_have_units() -> None:
    assert PREDICT.fields() == {
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 200,
        "duration_ms": 12.346,
        "request_id": "abc",
        "problem": None,
    }


@pytest.mark.parametrize("path", ["/a\n2026 INFO forged", "/\x1b[31m", "/a b", "/ü", "/%0a", "/\x00", '/"', "/a;b=1,2"])
def test_paths_are_printable_and_can_be_restored(path: str) -> None:
    logged = PREDICT._replace(path=path, status=404).fields()["path"]
    assert isinstance(logged, str)
    assert logged.isascii()
    assert logged.isprintable()
    assert " " not in logged
    assert unquote(logged) == path


@pytest.mark.parametrize("path", ["/" + "a" * 100_000, "/" + "\n" * 100_000])
def test_long_paths_are_cut_off(path: str) -> None:
    entry = PREDICT._replace(path=path)
    assert len(str(entry)) < 300
    assert len(str(entry.fields()["path"])) == 201


def test_long_methods_are_cut_off() -> None:
    entry = PREDICT._replace(method="A" * 30_000)
    assert len(str(entry)) < 100
    assert entry.fields()["method"] == "A" * 20


@pytest.mark.anyio
async def test_logs_each_request_with_its_id_and_problem(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with connect() as client:
        await client.post("/predict", content=b"words", headers=PNG | {"x-request-id": "mine"})
    [record] = [record for record in caplog.records if record.name == "app.access"]
    assert isinstance(record.msg, AccessEntry)
    fields = record.msg.fields()
    assert isinstance(duration_ms := fields.pop("duration_ms"), float)
    assert duration_ms >= 0
    assert fields == {
        "method": "POST",
        "path": "/predict",
        "route": "/predict",
        "status": 415,
        "request_id": "mine",
        "problem": "unsupported-media-type",
    }
    assert record.getMessage().startswith("POST /predict 415 ")
    assert record.getMessage().endswith(" id=mine problem=unsupported-media-type")


@pytest.mark.anyio
async def test_probes_that_fail_are_logged_at_info_level(
    make_app: MakeApp, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    app = make_app()
    async with connect(app) as client:
        await client.get("/health")
        await service_of(app).drain(1)
        await client.get("/health")
    [record] = [record for record in caplog.records if record.name == "app.access"]
    assert record.getMessage().startswith("GET /health 503 ")


@pytest.mark.anyio
async def test_successful_probes_and_scrapes_are_logged_at_debug_level(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "app.access")
    async with connect() as client:
        for path in ("/health", "/health/live", "/metrics", "/model"):
            await client.get(path)
    levels = [record.levelno for record in caplog.records if record.name == "app.access"]
    assert levels == [logging.DEBUG, logging.DEBUG, logging.DEBUG, logging.INFO]


@pytest.mark.anyio
async def test_the_path_of_a_404_is_logged_escaped_and_bounded(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    async with connect() as client:
        await client.get("/a%0Ab%1B" + "c" * 1000)
    [record] = [record for record in caplog.records if record.name == "app.access"]
    assert "/a%0Ab%1Bccc" in record.getMessage()
    assert len(record.getMessage()) < 400
    assert isinstance(record.msg, AccessEntry)
    assert record.msg.route == "unmatched"
