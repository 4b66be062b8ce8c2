"""Log lines and the collectors' text."""

import io
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.serving.telemetry import Telemetry, configure_logging


@pytest.fixture(autouse=True)
def _root_logger_as_it_was():
    root, httpx = logging.getLogger(), logging.getLogger("httpx")
    before = root.level, root.handlers[:], httpx.level
    yield
    root.level, root.handlers[:], httpx.level = before
    logging.captureWarnings(capture=False)


def logged(log_format: str, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure_logging(log_format, "info")
    return stream


def test_a_line_of_json_is_an_object_with_its_extras(monkeypatch):
    stream = logged("json", monkeypatch)
    logging.getLogger("app.access").info("%s %d", "GET", 200, extra={"request_id": "a", "problem": None})
    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert found.pop("time")
    assert found == {
        "level": "INFO",
        "name": "app.access",
        "message": "GET 200",
        "request_id": "a",
        "problem": None,
    }


def test_an_exception_stays_one_line_of_json(monkeypatch):
    stream = logged("json", monkeypatch)
    logging.getLogger("x").error("failed", exc_info=ValueError("two\nlines"))
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["exc_info"] == "ValueError: two\nlines"


def test_text_is_for_people_and_has_levels(monkeypatch):
    stream = logged("text", monkeypatch)
    logging.getLogger("x").info("said")
    logging.getLogger("x").debug("unsaid")
    [line] = stream.getvalue().splitlines()
    assert line.endswith("INFO x: said")


def test_the_queue_is_read_when_asked():
    telemetry, queue = Telemetry(), []
    telemetry.watch_queue(lambda: len(queue))
    queue += [1, 2]
    assert "convnext_queue_length 2.0" in telemetry.render().decode()


def test_every_collector_is_described():
    for family in text_string_to_metric_families(Telemetry().render().decode()):
        assert family.documentation
