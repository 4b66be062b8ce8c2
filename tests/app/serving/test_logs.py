"""Log lines in both formats, and streams that block or are closed."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from app.serving.logs import QueuedHandler, configure_logging
from tests.app.serving.squares import WAIT_S


@pytest.fixture(autouse=True)
def _restore_root_logger() -> Iterator[None]:
    root, httpx = logging.getLogger(), logging.getLogger("httpx")
    before = root.level, root.handlers[:], httpx.level
    yield
    root.level, root.handlers[:], httpx.level = before
    logging.captureWarnings(capture=False)


class BlockedStream(io.StringIO):
    """A stream whose writes block until ``gate`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.writing = threading.Event()

    def write(self, text: str) -> int:
        self.writing.set()
        assert self.gate.wait(WAIT_S)
        return super().write(text)


def test_json_lines_are_objects_with_extra_fields() -> None:
    stream = io.StringIO()
    handler = configure_logging("json", "info", stream)
    logging.getLogger("app.access").info("%s %d", "GET", 200, extra={"request_id": "a", "problem": None})
    handler.close()
    line = json.loads(stream.getvalue())
    assert datetime.fromisoformat(line.pop("time")).tzinfo is not None
    assert line == {
        "level": "INFO",
        "name": "app.access",
        "message": "GET 200",
        "request_id": "a",
        "problem": None,
    }


def test_an_exception_is_one_line_of_json() -> None:
    stream = io.StringIO()
    handler = configure_logging("json", "info", stream)
    logging.getLogger("x").error("failed", exc_info=ValueError("two\nlines"))
    handler.close()
    [line] = stream.getvalue().splitlines()
    assert json.loads(line)["exc_info"] == "ValueError: two\nlines"


def test_text_lines_have_a_level_and_respect_the_lowest_one() -> None:
    stream = io.StringIO()
    handler = configure_logging("text", "info", stream)
    logging.getLogger("x").info("shown")
    logging.getLogger("x").debug("hidden")
    handler.close()
    [line] = stream.getvalue().splitlines()
    assert line.endswith("INFO x: shown")


def test_a_blocked_stream_does_not_block_loggers_and_dropped_lines_are_counted() -> None:
    stream = BlockedStream()
    handler = QueuedHandler(stream, logging.Formatter("%(message)s"), queue_size=10)
    logger = logging.Logger("blocked")
    logger.addHandler(handler)
    logger.info("first")
    assert stream.writing.wait(WAIT_S)
    for number in range(25):
        logger.info("%d", number)
    assert handler.dropped == 15
    stream.gate.set()
    handler.close()
    assert stream.getvalue().splitlines()[:3] == ["first", "0", "1"]


def test_a_closed_stream_does_not_end_the_thread() -> None:
    stream = io.StringIO()
    handler = QueuedHandler(stream, logging.Formatter("%(message)s"))
    logger = logging.Logger("closed")
    logger.addHandler(handler)
    stream.close()
    logger.info("lost")
    logger.info("lost")
    handler.close()
    assert handler.dropped == 2
