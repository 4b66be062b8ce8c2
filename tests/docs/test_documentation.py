"""The documentation names what exists: settings with defaults and allowed values, metrics, files, make targets."""

import re
from pathlib import Path
from typing import Literal, get_args, get_origin

import annotated_types
import pytest
from pydantic.fields import FieldInfo

from app.platforms import RequestFormat
from app.serving.telemetry import Telemetry
from app.settings import PREFIX, Settings
from tests.constants import ROOT

CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md"))
    if path.name != "CHANGELOG.md"
)
ROW = re.compile(rf"^\| `{PREFIX}(\w+)` \| (.*?) \| (.*?) \| .+ \|$", re.MULTILINE)
FREE_FORM = {
    "model": "name or path",
    "labels": "path",
    "device": "`{auto,cpu,cuda,cuda:N,mps}`",
    "api_keys": "`KEY,KEY,…`",
    "api_keys_file": "path",
    "cors_origins": "`ORIGIN,ORIGIN,…`",
    "frame_ancestors": "`ORIGIN,ORIGIN,…`",
    "root_path": "path",
    "protocols": ", ".join(f"`{name}`" for name in get_args(RequestFormat)),
    "vertex_health_route": "path",
    "vertex_predict_route": "path",
    "cache_dir": "path",
    "host": "address",
}
SET_BY_KUBERNETES = "serve_port"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())


def documented_default(field: FieldInfo) -> str:
    if field.default in (None, frozenset()):
        return "unset"
    if isinstance(field.default, bool):
        return "`on`" if field.default else "`off`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def documented_values(name: str, field: FieldInfo) -> str:
    if name in FREE_FORM:
        return FREE_FORM[name]
    if field.annotation is bool:
        return "`{on,off}`"
    if get_origin(field.annotation) is Literal:
        return f"`{{{','.join(get_args(field.annotation))}}}`"
    return documented_range(field)


def documented_range(field: FieldInfo) -> str:
    lowest, highest = "", ""
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                lowest = f"≥ {value}"
            case annotated_types.Gt(gt=value):
                lowest = f"> {value}"
            case annotated_types.Le(le=value):
                highest = f"≤ {value}"
    return ", ".join(filter(None, (lowest, highest)))


def test_configuration_lists_every_setting_with_its_default_and_allowed_values() -> None:
    documented = {name.lower(): (default, values) for name, default, values in ROW.findall(CONFIGURATION)}
    assert documented == {
        name: (documented_default(field), documented_values(name, field))
        for name, field in Settings.model_fields.items()
    }


@pytest.mark.parametrize("device", re.findall(r"[\w:]+", FREE_FORM["device"].replace("N", "0")))
def test_documented_devices_are_accepted(device: str) -> None:
    assert Settings(device=device).device == device


@pages
def test_settings_on_the_page_exist(page: Path) -> None:
    named = {name.lower() for name in re.findall(rf"\b{PREFIX}([A-Z_]*[A-Z])\b(?!…)", page.read_text())}
    assert named - {SET_BY_KUBERNETES} <= set(Settings.model_fields)


@pages
def test_links_on_the_page_lead_to_files_and_headings_that_exist(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, target


@pages
def test_files_on_the_page_exist(page: Path) -> None:
    named = re.findall(r"`((?:app|model|training|tests|docker|docs|examples)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pages
def test_make_targets_on_the_page_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|&& |… )make ([a-z][a-z0-9-]*)", page.read_text(), re.MULTILINE)) <= targets


def test_operations_lists_every_metric_and_no_other() -> None:
    telemetry = Telemetry()
    telemetry.watch_dropped_logs(lambda: 0)
    telemetry.describe(model="x")
    text = telemetry.render().decode()
    names = re.findall(r"^# TYPE (convnext_\w+)", text, re.MULTILINE)
    exported = {name for name in names if not name.endswith("_created")}
    page = (ROOT / "docs" / "operations.md").read_text()
    named = {re.sub(r"_bucket$", "", name) for name in re.findall(r"\bconvnext_(?:info|[a-z_]*_[a-z]+)\b", page)}
    assert named == exported


def test_changelog_begins_with_the_version_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    newest = re.search(r"^## \[(.+)\] - \d{4}-\d{2}-\d{2}$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version is not None
    assert newest is not None
    assert newest[1] == version[1]


def test_the_tests_that_the_security_page_names_exist() -> None:
    folder: Path | None = None
    for file, test in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", (ROOT / "docs" / "security.md").read_text()):
        folder = ROOT / file if file else folder  # a name without a file is in the file before it
        assert folder is not None
        assert f"def {test}(" in folder.read_text(), test
