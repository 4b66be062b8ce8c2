"""docs/operations.md names what there is: settings, metrics, defaults, files."""

import re
from pathlib import Path

import pytest

from app.serving.telemetry import Telemetry
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_the_settings_it_names_exist() -> None:
    named = set(re.findall(rf"{PREFIX}([A-Z_]*[A-Z])\b(?!…)", PAGE))
    assert named
    kubernetes = {"SERVE_PORT"}  # what the page warns of
    assert {name.lower() for name in named - kubernetes} <= set(Settings.model_fields)


def test_every_metric_of_the_service_is_on_it_and_no_other() -> None:
    text = Telemetry().render().decode()
    offered = {name for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE) if name.startswith("convnext_")}
    offered = {name for name in offered if not name.endswith("_created")}
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bconvnext_[a-z_]*_[a-z]+\b", PAGE)}
    assert named & offered == offered
    assert named - offered == set()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_upload_bytes", "20 MB"),
        ("max_buffered_bytes", "1 GB"),
        ("max_queue_size", "256"),
        ("max_image_pixels", "50 million"),
        ("request_timeout_s", "30"),
        ("shutdown_grace_s", "30"),
    ],
)
def test_the_defaults_it_tells_are_the_settings(name: str, told: str) -> None:
    assert f"`{PREFIX}{name.upper()}` ({told})" in PAGE
    number, _, unit = told.partition(" ")
    scale = {"": 1, "MB": 10**6, "GB": 10**9, "million": 10**6}[unit]
    assert Settings.model_fields[name].default == int(number) * scale


def test_the_files_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
