"""The compose files, read and not run: what is locked down, and that they agree with the settings and the image."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
NAME = "convnext-serve"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SET_BY_THE_IMAGE = {"host", "port", "cache_dir"}
BYTES_A_PIXEL = 20  # while an image is decoded, measured over all formats: docs/operations.md, "Memory"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def service(compose: dict[str, Any]) -> dict[str, Any]:
    return compose["services"][NAME]


@pytest.fixture(scope="module")
def gpu_service() -> dict[str, Any]:
    services = yaml.safe_load((ROOT / "docker" / "compose.gpu.yml").read_text())["services"]
    assert list(services) == [NAME]
    return services[NAME]


def seconds(duration: str) -> int:
    return int(duration.removesuffix("s"))


def test_it_builds_the_image_with_arguments_that_the_dockerfile_has(service: dict[str, Any]) -> None:
    assert service["image"] == NAME
    for name in service["build"]["args"]:
        assert re.search(rf"^ARG {name}=", DOCKERFILE, re.MULTILINE), name


def test_the_python_version_is_the_dockerfiles(service: dict[str, Any]) -> None:
    default = re.search(r"^ARG PYTHON_VERSION=(.+)$", DOCKERFILE, re.MULTILINE)
    assert default is not None
    assert service["build"]["args"]["PYTHON_VERSION"] == f"${{PYTHON_VERSION:-{default[1]}}}"


def test_it_is_reached_from_this_machine_alone(service: dict[str, Any]) -> None:
    port = Settings.model_fields["port"].default
    assert service["ports"] == [f"127.0.0.1:${{PORT:-{port}}}:{port}"]


def test_every_setting_can_be_given(service: dict[str, Any]) -> None:
    passed = {entry.partition("=")[0] for entry in service["environment"] if entry.startswith(PREFIX)}
    offered = {f"{PREFIX}{name.upper()}" for name in set(Settings.model_fields) - SET_BY_THE_IMAGE}
    assert passed == offered


def test_a_setting_that_is_not_given_keeps_its_default_or_the_files_own(service: dict[str, Any]) -> None:
    for entry in service["environment"]:
        name, given, value = entry.partition("=")
        if given:  # by name alone, an unset one is not passed at all
            assert re.fullmatch(rf"\$\{{{name}:-\w+\}}", value), entry


def test_the_default_device_is_the_settings(service: dict[str, Any]) -> None:
    assert default(service, "CONVNEXT_DEVICE") == Settings.model_fields["device"].default


def default(service: dict[str, Any], name: str) -> str:
    values = dict(entry.partition("=")[::2] for entry in service["environment"])
    return values[name].removeprefix(f"${{{name}:-").removesuffix("}")


def test_the_container_can_write_to_its_cache_and_to_a_bounded_tmp_only(
    compose: dict[str, Any], service: dict[str, Any]
) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp:size=256m,mode=1777"]  # noqa: S108 - in the container
    cache_dir = re.search(rf"{PREFIX}CACHE_DIR=(\S+)", DOCKERFILE)
    assert cache_dir is not None
    (volume,) = service["volumes"]
    name, _, target = volume.partition(":")
    assert name in compose["volumes"]
    assert target == cache_dir[1]


def test_the_container_has_no_privileges(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user"} & set(service)


def test_processes_are_bounded(service: dict[str, Any]) -> None:
    assert service["pids_limit"] > 0


@pytest.mark.parametrize(("fixture", "at_rest_bytes"), [("service", 1e9), ("gpu_service", 4e9)])
def test_the_memory_holds_the_worst_that_is_let_in(
    fixture: str, at_rest_bytes: float, request: pytest.FixtureRequest
) -> None:
    service = request.getfixturevalue(fixture)
    limit = re.fullmatch(r"\$\{MEMORY:-(\d+)g\}", service["mem_limit"])
    assert limit is not None
    threads = int(default(service, "CONVNEXT_DECODE_THREADS"))
    decoding = threads * BYTES_A_PIXEL * Settings.model_fields["max_image_pixels"].default
    bodies = Settings.model_fields["max_buffered_bytes"].default
    assert at_rest_bytes + bodies + decoding < int(limit[1]) << 30


def test_the_stop_waits_longer_than_the_drain(service: dict[str, Any]) -> None:
    assert seconds(service["stop_grace_period"]) > Settings.model_fields["shutdown_grace_s"].default


def test_the_health_check_is_the_images(service: dict[str, Any]) -> None:
    line = re.search(r"^HEALTHCHECK (.+) CMD (.+)$", DOCKERFILE, re.MULTILINE)
    assert line is not None
    check = dict(service["healthcheck"])
    assert check.pop("test") == ["CMD", *json.loads(line[2])]
    options = dict(option.removeprefix("--").split("=") for option in line[1].split())
    assert {name.replace("_", "-"): str(value) for name, value in check.items()} == options


def test_it_comes_back_after_a_crash_or_a_reboot(service: dict[str, Any]) -> None:
    assert service["restart"] == "unless-stopped"


def test_the_gpu_file_asks_for_a_gpu_and_for_nothing_less(gpu_service: dict[str, Any]) -> None:
    (device,) = gpu_service["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert "gpu" in device["capabilities"]
    assert default(gpu_service, "CONVNEXT_DEVICE") == "cuda"
