"""What the service tells of itself: Prometheus collectors and log lines."""

import logging
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from pythonjsonlogger.json import JsonFormatter

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Telemetry:
    """The collectors of one application, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = Counter(
            "convnext_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._rejected = Counter(
            "convnext_rejected", "Requests refused, by the problem's type.", ("reason",), registry=self._registry
        )
        self._latency = self._histogram("request_seconds", "From a request's head to its answer.", ("route",))
        self._decode = self._histogram("decode_seconds", "One image, from bytes to pixels.")
        self._queue_wait = self._histogram("queue_wait_seconds", "One image, from decoded to its batch's start.")
        self._inference = self._histogram("inference_seconds", "One batch in the engine.")
        self._batch_size = self._histogram("batch_size", "Images in a batch.", buckets=_SIZES)
        self._queue_length = Gauge(
            "convnext_queue_length", "Requests admitted and not yet in a batch.", registry=self._registry
        )

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(f"convnext_{name}", text, labels, buckets=buckets, registry=self._registry)

    def on_response(self, route: str, status: int, lasted_s: float, rejected: str | None) -> None:
        """Counts one answered request; ``rejected`` is its problem's type."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(lasted_s)
        if rejected is not None:
            self._rejected.labels(rejected).inc()

    def on_batch(self, size: int, run_s: float) -> None:
        """Counts one batch that ran."""
        self._batch_size.observe(size)
        self._inference.observe(run_s)

    def on_image(self, decode_s: float, queue_s: float) -> None:
        """Counts one image that was classified."""
        self._decode.observe(decode_s)
        self._queue_wait.observe(queue_s)

    def watch_queue(self, length: Callable[[], float]) -> None:
        """Reads the queue's length whenever the metrics are asked for."""
        self._queue_length.set_function(length)

    def render(self) -> bytes:
        """All collectors in Prometheus' text format, of type ``CONTENT_TYPE``."""
        return generate_latest(self._registry)


def configure_logging(log_format: str, log_level: str) -> None:
    """Sends every log line of the process to stderr, as text or as one JSON object a line."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        JsonFormatter(
            "{asctime}{levelname}{name}{message}", style="{", rename_fields={"asctime": "time", "levelname": "level"}
        )
        if log_format == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    )
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    logging.captureWarnings(capture=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
