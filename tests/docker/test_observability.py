"""Alerts, scrape configuration and dashboard: checked by Prometheus' own tool, and against the exported metrics."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.serving.telemetry import Telemetry
from tests.constants import ROOT

FOLDER = ROOT / "docker" / "observability"
ALERTS: list[dict[str, Any]] = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]  # Any: YAML
DASHBOARD = json.loads((FOLDER / "grafana" / "convnext-serve.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["promtool", *arguments], input=text, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def render() -> str:
    """The metrics of a service that has completed one request."""
    telemetry = Telemetry()
    telemetry.watch_dropped_logs(lambda: 0)
    telemetry.describe(model="x", device="cpu")
    telemetry.on_response("/predict", 503, 0.1, "overloaded")
    telemetry.on_batch(1, 0.1)
    telemetry.on_image(0.1, 0.1, 0.1)
    return telemetry.render().decode()


@needs_promtool
def test_metrics_follow_the_conventions_of_prometheus() -> None:
    own = "\n".join(line for line in render().splitlines() if "convnext_" in line)
    assert promtool("check", "metrics", text=own + "\n") == ""


@needs_promtool
def test_the_configuration_and_the_alerts_are_valid() -> None:
    promtool("check", "rules", str(FOLDER / "alerts.yml"))
    promtool("check", "config", str(FOLDER / "prometheus.yml"))


@needs_promtool
def test_the_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", str(FOLDER / "alerts_test.yml"))


@needs_promtool
@pytest.mark.parametrize("query", QUERIES)
def test_queries_of_the_dashboard_are_valid(query: str, tmp_path: Path) -> None:
    rules = {"groups": [{"name": "x", "rules": [{"record": "x", "expr": query.replace("$__rate_interval", "5m")}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in ALERTS)])
def test_queries_use_metrics_that_exist(query: str) -> None:
    exported = set(re.findall(r"^(\w+)", render(), re.MULTILINE))
    named = set(re.findall(r"\b(?:convnext|process)_\w+", query))
    assert named <= exported


def test_operations_explains_every_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert set(re.findall(r"`(Convnext\w+)`", page)) == {rule["alert"] for rule in ALERTS}


def test_the_dashboard_is_provisioned_with_a_data_source_that_exists() -> None:
    sources = yaml.safe_load((FOLDER / "grafana" / "datasource.yml").read_text())["datasources"]
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["uid"] for source in sources}
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
