"""SharedMetrics: the metrics of several worker processes as one sum, in prometheus_client's multiprocess mode."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, multiprocess, values
from prometheus_client.exposition import generate_latest

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that must name a folder before a worker starts."""

_START_TIME = "process_start_time_seconds"  # of the newest worker; the sum would have no meaning


class SharedMetrics:
    """The files of one worker, named by its ``number``: a worker that replaces another one counts on in its files.

    Create it before any metric. The mode has no collectors but counters, gauges and histograms; ``copy`` makes those of
    the values that are kept elsewhere.
    """

    def __init__(self, number: int) -> None:
        values.ValueClass = values.MultiProcessValue(lambda: number)  # type: ignore[no-untyped-call]  # no types
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._counted: dict[tuple[str, ...], float] = {}

    def copy(self, families: Iterable[Metric]) -> None:
        """Sets gauges and counters to the values of ``families``, of which there is one per process."""
        for family in families:
            for sample in family.samples:
                if family.type == "counter":
                    self._count(family, sample.labels, sample.value)
                else:
                    self._gauge(family, sample.labels).set(sample.value)

    def render(self) -> bytes:
        """The sum of all workers in Prometheus' text format."""
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # has no types
        return generate_latest(registry)

    def _count(self, family: Metric, labels: dict[str, str], value: float) -> None:
        """Adds what has been counted since the last time: the files go on when this process has ended."""
        if family.name not in self._counters:
            self._counters[family.name] = Counter(family.name, family.documentation, tuple(labels), registry=None)
        counter = self._counters[family.name]
        key = family.name, *labels.values()
        (counter.labels(**labels) if labels else counter).inc(value - self._counted.get(key, 0.0))
        self._counted[key] = value

    def _gauge(self, family: Metric, labels: dict[str, str]) -> Gauge:
        if family.name not in self._gauges:
            self._gauges[family.name] = Gauge(
                family.name,
                family.documentation,
                tuple(labels),
                registry=None,
                multiprocess_mode="livemax" if family.name == _START_TIME else "livesum",
            )
        gauge = self._gauges[family.name]
        return gauge.labels(**labels) if labels else gauge


def forget_worker(number: int) -> None:
    """Removes the gauges of a worker that has ended; its counters stay part of the sum."""
    multiprocess.mark_process_dead(number)  # type: ignore[no-untyped-call]  # has no types
