"""Logging through a bounded queue, so that a slow reader of stderr cannot block the service."""

import logging
import queue
import threading
from logging.handlers import QueueHandler
from typing import IO

from pythonjsonlogger.json import JsonFormatter

_QUEUE_SIZE = 10_000  # lines
_FLUSH_TIMEOUT_S = 2.0


class QueuedHandler(QueueHandler):
    """Writes log lines to ``stream`` in a daemon thread; drops and counts lines while the queue is full."""

    def __init__(self, stream: IO[str], formatter: logging.Formatter, queue_size: int = _QUEUE_SIZE) -> None:
        self._records: queue.Queue[logging.LogRecord | None] = queue.Queue(queue_size)
        super().__init__(self._records)
        self.dropped = 0
        self._stream = stream
        self._lines = formatter
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
        try:
            self._records.put_nowait(None)
        except queue.Full:
            self.dropped += 1
        self._thread.join(_FLUSH_TIMEOUT_S)
        super().close()

    def _write(self) -> None:
        while (record := self._records.get()) is not None:
            try:
                self._stream.write(self._lines.format(record) + "\n")
                if self._records.empty():
                    self._stream.flush()
            except (OSError, ValueError):  # the stream is closed
                self.dropped += 1


def configure_logging(log_format: str, log_level: str, stream: IO[str]) -> QueuedHandler:
    """Sends every log line of the process to ``stream``, as text or as one JSON object per line."""
    formatter = (
        JsonFormatter("{levelname}{name}{message}", style="{", rename_fields={"levelname": "level"}, timestamp="time")
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z")
    )
    handler = QueuedHandler(stream, formatter)
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.captureWarnings(capture=True)
    for library in ("httpx", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
    return handler
