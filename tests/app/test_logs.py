"""Log lines in both formats, and streams that block or are closed."""

import io
import json
import logging
import select
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app.logs import QueuedHandler, configure_logging
from tests.constants import WAIT_S


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


class Measurement:
    """A message with fields."""

    def __str__(self) -> str:
        return "12 mm"

    def fields(self) -> dict[str, object]:
        return {"length_mm": 12, "place": None}


def written(log_format: str, message: object, worker: int | None = None, **extra: object) -> str:
    """The line of one warning."""
    stream = io.StringIO()
    handler = configure_logging(log_format, "info", stream, worker)
    logging.getLogger("x").warning(message, extra=extra)
    handler.close()
    [line] = stream.getvalue().splitlines()
    return line


def test_json_lines_are_objects_with_the_fields_of_the_message() -> None:
    line = json.loads(written("json", Measurement(), request_id="a"))
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "name": "x",
        "message": "12 mm",
        "length_mm": 12,
        "place": None,
        "request_id": "a",
    }


def test_json_lines_leave_out_the_colored_message_of_uvicorn() -> None:
    assert "colored" not in written("json", "plain", color_message="\x1b[31mcolored\x1b[0m")


def test_text_lines_have_the_text_of_a_message_with_fields() -> None:
    assert written("text", Measurement()).endswith(" WARNING x: 12 mm")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_have_no_control_characters(log_format: str) -> None:
    assert written(log_format, "\x1b[31mred\x1b[0m\r\x9b\x00").isprintable()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_times_are_in_iso_8601_with_a_zone(log_format: str) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    line = written(log_format, "now")
    time = datetime.fromisoformat(json.loads(line)["time"] if log_format == "json" else line.split()[0])
    assert before <= time <= datetime.now(UTC)


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


def test_lines_have_the_number_of_their_worker() -> None:
    assert json.loads(written("json", "text", worker=3))["worker"] == 3
    assert "worker" not in json.loads(written("json", "text"))
    assert "[worker 3]" in written("text", "text", worker=3)


class RecordedStream(io.StringIO):
    """Keeps what each write gets."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []

    def write(self, text: str) -> int:
        self.writes.append(text)
        return len(text)


def test_lines_are_written_together_in_pieces_that_a_pipe_takes_as_a_whole() -> None:
    stream = RecordedStream()
    handler = QueuedHandler(stream, logging.Formatter("%(message)s"))
    logger = logging.Logger("pieces")
    logger.addHandler(handler)
    messages = ["é" * (number % 100) for number in range(1000)] + ["long" * select.PIPE_BUF, "last"]
    for message in messages:
        logger.info(message)
    handler.close()
    assert "".join(stream.writes).splitlines() == messages
    assert all(text.endswith("\n") for text in stream.writes)
    assert [len(text) for text in stream.writes if len(text.encode()) > select.PIPE_BUF] == [4 * select.PIPE_BUF + 1]
    assert len(stream.writes) < 100


def test_a_wrong_call_of_a_logger_does_not_end_the_thread(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = QueuedHandler(stream, logging.Formatter("%(message)s"))
    logger = logging.Logger("wrong")
    logger.addHandler(handler)
    logger.info("%d", "text")
    logger.info("next")
    handler.close()
    assert stream.getvalue() == "next\n"
    assert "TypeError" in capsys.readouterr().err
