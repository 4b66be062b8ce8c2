"""The compose files, parsed but not run: their restrictions, and that they match the settings and the Dockerfile."""

import json
import re
from typing import Any

import pytest
import yaml

from app.settings import PREFIX, Settings
from tests.constants import ROOT

NAME = "convnext-serve"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SET_BY_THE_IMAGE = {"host", "port", "cache_dir"}
BYTES_PER_PIXEL = 24  # while an image is decoded, the maximum over all formats: docs/operations.md, "Memory"
BYTES_PER_QUEUED_IMAGE = 224 * 224 * 3

Yaml = dict[str, Any]  # Any: the schema is that of the Compose specification


@pytest.fixture(scope="module")
def compose() -> Yaml:
    parsed: Yaml = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return parsed


@pytest.fixture(scope="module")
def service(compose: Yaml) -> Yaml:
    found: Yaml = compose["services"][NAME]
    return found


@pytest.fixture(scope="module")
def gpu_service() -> Yaml:
    services: dict[str, Yaml] = yaml.safe_load((ROOT / "docker" / "compose.gpu.yml").read_text())["services"]
    assert list(services) == [NAME]
    return services[NAME]


def default_of(service: Yaml, name: str) -> str:
    values: dict[str, str] = dict(entry.partition("=")[::2] for entry in service["environment"])
    return values[name].removeprefix(f"${{{name}:-").removesuffix("}")


def test_build_arguments_exist_in_the_dockerfile(service: Yaml, gpu_service: Yaml) -> None:
    for name in {*service["build"]["args"], *gpu_service["build"]["args"]}:
        assert re.search(rf"^ARG {name}=", DOCKERFILE, re.MULTILINE), name


def test_python_version_is_that_of_the_dockerfile(service: Yaml) -> None:
    default = re.search(r"^ARG PYTHON_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert service["build"]["args"]["PYTHON_VERSION"] == f"${{PYTHON_VERSION:-{default[1]}}}"


def test_cpu_and_gpu_images_have_different_tags(service: Yaml, gpu_service: Yaml) -> None:
    assert service["image"] != gpu_service["image"]


def test_port_is_published_on_the_loopback_address_by_default(service: Yaml) -> None:
    host, port = Settings.model_fields["host"].default, Settings.model_fields["port"].default
    assert service["ports"] == [f"${{HOST:-{host}}}:${{PORT:-{port}}}:{port}"]


def test_every_setting_can_be_passed(service: Yaml) -> None:
    passed = {entry.partition("=")[0] for entry in service["environment"] if entry.startswith(PREFIX)}
    assert passed == {f"{PREFIX}{name.upper()}" for name in set(Settings.model_fields) - SET_BY_THE_IMAGE}


def test_gpu_file_passes_known_settings_only(gpu_service: Yaml) -> None:
    passed = {entry.partition("=")[0] for entry in gpu_service["environment"]}
    assert {name.removeprefix(PREFIX).lower() for name in passed} <= set(Settings.model_fields)


def test_unset_variables_keep_a_default(service: Yaml) -> None:
    for entry in service["environment"]:
        name, equals, value = entry.partition("=")
        if equals:  # an entry without a value is not passed at all if it is unset
            assert re.fullmatch(rf"\$\{{{name}:-\w+\}}", value), entry


def test_default_device_is_that_of_the_settings(service: Yaml) -> None:
    assert default_of(service, "CONVNEXT_DEVICE") == Settings.model_fields["device"].default


def test_container_can_write_only_to_its_cache_and_a_bounded_tmp(compose: Yaml, service: Yaml) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=256m,mode=1777"]  # noqa: S108 - in the container
    cache_dir = re.search(rf"{PREFIX}CACHE_DIR=(\S+)", DOCKERFILE)
    assert cache_dir is not None
    (volume,) = service["volumes"]
    name, _, target = volume.partition(":")
    assert name in compose["volumes"]
    assert target == cache_dir[1]


def test_container_has_no_privileges(service: Yaml) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service)


@pytest.mark.parametrize(("fixture", "idle_bytes"), [("service", 1.2e9), ("gpu_service", 4.2e9)])
def test_memory_limit_covers_the_largest_accepted_load(
    fixture: str, idle_bytes: float, request: pytest.FixtureRequest
) -> None:
    service: Yaml = request.getfixturevalue(fixture)
    limit = re.fullmatch(r"\$\{MEMORY:-(\d+)g\}", service["mem_limit"])
    assert limit is not None
    threads = int(default_of(service, "CONVNEXT_DECODE_THREADS"))
    decoding = threads * BYTES_PER_PIXEL * Settings.model_fields["max_image_pixels"].default
    queued = BYTES_PER_QUEUED_IMAGE * Settings.model_fields["max_queue_size"].default
    bodies = Settings.model_fields["max_buffered_bytes"].default
    assert idle_bytes + bodies + queued + decoding < int(limit[1]) << 30


def test_stop_waits_longer_than_the_drain(service: Yaml) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings.model_fields["shutdown_grace_s"].default


def test_health_check_is_that_of_the_dockerfile(service: Yaml) -> None:
    line = re.search(r"^HEALTHCHECK (.+) CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert line is not None
    check = dict(service["healthcheck"])
    assert check.pop("test") == ["CMD", *json.loads(line[2])]
    options = dict(option.removeprefix("--").split("=") for option in line[1].split())
    assert {name.replace("_", "-"): str(value) for name, value in check.items()} == options
