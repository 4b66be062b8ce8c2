"""Logging through a bounded queue, so that a slow reader of stderr cannot block the service."""

import contextlib
import logging
import queue
import re
import threading
import time
from collections.abc import Iterable, Iterator
from logging.handlers import QueueHandler
from select import PIPE_BUF
from typing import IO, Any, Protocol, runtime_checkable

from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.json import JsonFormatter

_QUEUE_SIZE = 10_000  # lines
_COLLECT_S = 0.05  # so that the thread takes the GIL from the event loop 20 times a second, not for each line
_FLUSH_TIMEOUT_S = 2.0
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and newline


@runtime_checkable
class Entry(Protocol):
    """The message of a record that has fields: ``str`` is its text, ``fields`` what a JSON line has besides it."""

    def fields(self) -> dict[str, object]:
        """The fields by name."""


class _UtcTime(logging.Formatter):
    """Times in ISO 8601."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03d+00:00"


class TextFormatter(_UtcTime):
    """Lines for people, with the time in UTC; control characters, such as ANSI codes, are escaped."""

    def __init__(self, worker: int | None = None) -> None:
        origin = "" if worker is None else f"[worker {worker}] "
        super().__init__(f"%(asctime)s %(levelname)s {origin}%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The line, or several if it has a traceback."""
        return _CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", super().format(record))


class JsonLineFormatter(_UtcTime, JsonFormatter):
    """One JSON object per line, with the fields of an ``Entry`` and of ``extra``."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(
            "{asctime}{levelname}{name}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level"},
            static_fields=None if worker is None else {"worker": worker},
            reserved_attrs=[*RESERVED_ATTRS, "color_message"],  # uvicorn's, with ANSI codes
        )

    def add_fields(
        self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:  # Any: the base class's type
        """Adds the fields of an ``Entry``."""
        super().add_fields(log_data, record, message_dict)
        if isinstance(record.msg, Entry):
            log_data.update(record.msg.fields())


class QueuedHandler(QueueHandler):
    """Writes log lines to ``stream`` in a daemon thread; drops and counts lines while the queue is full."""

    def __init__(self, stream: IO[str], formatter: logging.Formatter, queue_size: int = _QUEUE_SIZE) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(queue_size)
        super().__init__(self._records)
        self.dropped = 0
        self._stream = stream
        self._lines = formatter
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="logs", daemon=True)
        self._thread.start()

    def enqueue(self, record: logging.LogRecord) -> None:
        """Puts the record into the queue, or drops it."""
        try:
            self._records.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leaves the formatting to the thread: records are not pickled, and their arguments are not changed."""
        return record

    def close(self) -> None:
        """Writes what is in the queue, but does not wait for a blocked stream."""
        self._closing.set()
        with contextlib.suppress(queue.Full):
            self._records.put_nowait(None)  # wakes the thread
        self._thread.join(_FLUSH_TIMEOUT_S)
        super().close()

    def _write(self) -> None:
        while not self._closing.is_set():
            records = [self._records.get()]
            self._closing.wait(_COLLECT_S)
            self._write_lines(records)
        self._write_lines([])

    def _write_lines(self, records: list[logging.LogRecord | None]) -> None:
        """Writes ``records`` and what is in the queue."""
        records += [self._records.get_nowait() for _ in range(self._records.qsize())]
        for lines in _grouped(self._line(record) for record in records if record is not None):
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
            except (OSError, ValueError):  # the stream is closed
                self.dropped += len(lines)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self._lines.format(record) + "\n"
        except Exception:  # noqa: BLE001 - one wrong call of a logger must not end the thread
            self.handleError(record)
            return ""


def _grouped(lines: Iterable[str]) -> Iterator[list[str]]:
    """Groups that a pipe takes as a whole, so that lines of several workers do not mix; a longer line is alone."""
    group: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode(errors="replace"))
        if group and size + length > PIPE_BUF:
            yield group
            group, size = [], 0
        group.append(line)
        size += length
    if group:
        yield group


def configure_logging(log_format: str, log_level: str, stream: IO[str], worker: int | None = None) -> QueuedHandler:
    """Sends every log line of the process to ``stream``, as text or as one JSON object per line.

    ``worker`` is the number of the process if it is one of several; each line has it.
    """
    formatter = JsonLineFormatter(worker) if log_format == "json" else TextFormatter(worker)
    handler = QueuedHandler(stream, formatter)
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.captureWarnings(capture=True)
    for attribute in ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks"):
        setattr(logging, attribute, False)  # no line has these, and to find them out takes half the time of a record
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # it warns of each invalid request
    return handler
