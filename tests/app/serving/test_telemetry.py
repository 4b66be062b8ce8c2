"""Telemetry: the metrics in Prometheus' text format."""

from prometheus_client.parser import text_string_to_metric_families

from app.serving.telemetry import Telemetry


def samples(telemetry: Telemetry) -> dict[str, float]:
    """Returns the values of the samples without labels."""
    families = text_string_to_metric_families(telemetry.render().decode())
    return {sample.name: sample.value for family in families for sample in family.samples if not sample.labels}


def test_gauges_are_read_when_the_metrics_are_requested() -> None:
    telemetry = Telemetry()
    images: list[int] = []
    telemetry.watch_images(lambda: len(images))
    telemetry.watch_dropped_logs(lambda: 3)
    images += [1, 2]
    found = samples(telemetry)
    assert found["convnext_images_in_service"] == 2
    assert found["convnext_dropped_log_lines_total"] == 3


def test_every_collector_has_a_description() -> None:
    for family in text_string_to_metric_families(Telemetry().render().decode()):
        assert family.documentation
