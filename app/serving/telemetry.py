"""Telemetry: the Prometheus collectors of one application."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial

from opentelemetry import trace
from prometheus_client import CollectorRegistry, Counter, Gauge, GCCollector, Histogram, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from app.serving.shared_metrics import SharedMetrics

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Telemetry:
    """The collectors of one application, in a registry of its own; with ``tracing``, spans by OpenTelemetry, too.

    ``worker`` is the number of this process if it is one of several that serve together; see ``SharedMetrics``.
    """

    def __init__(self, *, tracing: bool = False, worker: int | None = None) -> None:
        self._tracer = trace.get_tracer("convnext_serve") if tracing else None
        self._shared = None if worker is None else SharedMetrics(worker)
        self._registry = CollectorRegistry()
        # Counters and histograms of workers are not read from a registry, but from the files that they share.
        self._own_registry = self._registry if self._shared is None else None
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._requests = self._counter("requests", "Requests by route and status.", ("route", "status"))
        self._rejected = self._counter("rejected", "Requests that failed, by problem type.", ("reason",))
        self._latency = self._histogram("request_seconds", "From a request's headers to its response.", ("route",))
        self._decode = self._histogram("decode_seconds", "One image, from bytes to pixels.")
        self._queue_wait = self._histogram("queue_wait_seconds", "One image, from decoded to the start of its batch.")
        self._inference = self._histogram("inference_seconds", "One batch in the engine.")
        self._top_probability = self._histogram("top_probability", "Highest probability of an image.", buckets=_SHARES)
        self._batch_size = self._histogram("batch_size", "Images per batch.", buckets=_SIZES)
        self._closed_connections = self._counter("closed_connections", "Connections closed as too many were open.", ())
        self._in_service: Callable[[], float] = lambda: 0
        family = partial(GaugeMetricFamily, "convnext_images_in_service", "Images admitted and not yet completed.")
        self._registry.register(_Watched(family, lambda: self._in_service()))
        # Looking up a child by its labels takes longer than counting.
        self._requests_child = cache(self._requests.labels)
        self._latency_child = cache(self._latency.labels)
        self.publish()

    def on_response(self, route: str, status: int, duration_s: float, problem: str | None) -> None:
        """Counts one response; ``problem`` is its problem type."""
        self._requests_child(route, str(status)).inc()
        self._latency_child(route).observe(duration_s)
        if problem is not None:
            self._rejected.labels(problem).inc()

    def on_closed_connection(self) -> None:
        """Counts a connection that was closed before its request, as too many were open."""
        self._closed_connections.inc()

    def on_batch(self, size: int, run_s: float) -> None:
        """Counts one batch that was run."""
        self._batch_size.observe(size)
        self._inference.observe(run_s)

    def on_image(self, decode_s: float, queue_s: float, run_s: float) -> None:
        """Counts one image whose batch has just ended, and adds spans of its phases to the trace of the request."""
        self._decode.observe(decode_s)
        self._queue_wait.observe(queue_s)
        if self._tracer is not None:
            _add_spans(self._tracer, {"inference": run_s, "queue": queue_s, "decode": decode_s})

    def on_top_probability(self, probability: float) -> None:
        """Counts the highest probability of one image: a change of its distribution shows that photos have changed."""
        self._top_probability.observe(probability)

    def current_span(self) -> trace.SpanContext | None:
        """The span of the current request, or None if it is not traced."""
        if self._tracer is None:
            return None
        span = trace.get_current_span().get_span_context()
        return span if span.is_valid else None

    def watch_images(self, count: Callable[[], float]) -> None:
        """Reads the number of images in the service whenever the metrics are requested."""
        self._in_service = count

    def watch_dropped_logs(self, count: Callable[[], float]) -> None:
        """Reads the number of dropped log lines whenever the metrics are requested."""
        family = partial(CounterMetricFamily, "convnext_dropped_log_lines", "Lines dropped as their reader was slow.")
        self._registry.register(_Watched(family, count))

    def describe(self, **labels: str) -> None:
        """Sets the labels of ``convnext_info``, whose value is 1."""
        info = Gauge(
            "convnext_info",
            "What is served, and how.",
            tuple(labels),
            registry=self._own_registry,
            multiprocess_mode="livemax",
        )
        info.labels(**labels).set(1)

    def publish(self) -> None:
        """Copies what is read only when metrics are requested to where other workers find it; call it regularly."""
        if self._shared is not None:
            self._shared.copy(self._registry.collect())

    def render(self) -> bytes:
        """All collectors in Prometheus' text format, of type ``CONTENT_TYPE``; of workers, the sum of all."""
        if self._shared is None:
            return generate_latest(self._registry)
        self.publish()
        return self._shared.render()

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"convnext_{name}", text, labels, registry=self._own_registry)

    def _histogram(
        self, name: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(f"convnext_{name}", text, labels, buckets=buckets, registry=self._own_registry)


class _Watched(Collector):
    """A value that is kept elsewhere."""

    def __init__(self, family: Callable[[float], Metric], value: Callable[[], float]) -> None:
        self._family, self._value = family, value

    def collect(self) -> Iterator[Metric]:
        """The current value."""
        yield self._family(self._value())


def _add_spans(tracer: trace.Tracer, seconds: Mapping[str, float]) -> None:
    """Adds a span for each phase of an image; the first one has just ended, and the others came before it."""
    end = time.time_ns()
    for name, duration_s in seconds.items():
        start = end - round(1e9 * duration_s)
        tracer.start_span(name, start_time=start).end(end)
        end = start
