"""The blue/green deployment, parsed but not run; tests/reliability/test_blue_green.py runs its nginx configuration."""

import re
from typing import Any

import pytest
import yaml

from app.settings import Settings
from tests.constants import ROOT

FOLDER = ROOT / "docker" / "bluegreen"
VERSIONS = ("blue", "green")

Yaml = dict[str, Any]  # Any: the schema is that of the Compose specification


class Loader(yaml.SafeLoader):
    """Also reads the tag ``!reset`` of Compose, which removes what a service inherits."""


Loader.add_constructor("!reset", lambda loader, node: None)

versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def compose() -> Yaml:
    parsed: Yaml = yaml.load((FOLDER / "compose.yml").read_text(), Loader)  # noqa: S506 - a SafeLoader
    return parsed


@pytest.fixture(scope="module")
def base() -> Yaml:
    parsed: Yaml = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="module")
def active() -> str:
    return (FOLDER / "nginx" / "active.inc").read_text()


@versions
def test_versions_extend_the_service_and_publish_no_port(version: str, compose: Yaml, base: Yaml) -> None:
    service = compose["services"][version]
    assert (FOLDER / service["extends"]["file"]).resolve() == ROOT / "docker-compose.yml"
    assert service["extends"]["service"] in base["services"]
    assert service["ports"] is None
    assert set(service) == {"extends", "image", "ports", "command"}


@versions
def test_each_version_has_its_own_image_and_model(version: str, compose: Yaml, base: Yaml) -> None:
    service, prefix = compose["services"][version], version.upper()
    assert service["image"] == f"${{{prefix}_IMAGE:-{base['services']['convnext-serve']['image']}}}"
    assert service["command"] == f"serve --model ${{{prefix}_MODEL:-{Settings.model_fields['model'].default}}}"


def test_volumes_that_the_versions_inherit_are_declared(compose: Yaml, base: Yaml) -> None:
    inherited = {volume.partition(":")[0] for volume in base["services"]["convnext-serve"]["volumes"]}
    assert inherited == set(compose["volumes"])


def test_nginx_takes_the_place_of_the_published_port(compose: Yaml, base: Yaml) -> None:
    listen = re.search(r"listen (\d+);", (FOLDER / "nginx" / "default.conf").read_text())
    assert listen is not None
    host, _, port = base["services"]["convnext-serve"]["ports"][0].rpartition(":")
    assert compose["services"]["nginx"]["ports"] == [f"{host}:{listen[1]}"]
    assert port == str(Settings.model_fields["port"].default)


def test_nginx_includes_the_active_version(compose: Yaml, active: str) -> None:
    assert compose["services"]["nginx"]["volumes"] == ["./nginx:/etc/nginx/conf.d:ro"]
    assert "include conf.d/active.inc;" in (FOLDER / "nginx" / "default.conf").read_text()
    assert active == f"server blue:{Settings.model_fields['port'].default};\n"


def test_documented_commands_write_the_active_version(active: str) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    written = re.findall(r"echo '(.+)' > nginx/active\.inc", page)
    assert {f"{line}\n" for line in written} == {active.replace("blue", version) for version in VERSIONS}
