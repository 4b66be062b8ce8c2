"""The Kubernetes manifest, read and not applied: its probes, its patience and what is locked down."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.main import create_app
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    documents = yaml.safe_load_all((ROOT / "docker" / "kubernetes.yml").read_text())
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (container,) = pod["containers"]
    return container


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_each_probe_asks_a_route_that_there_is(container: dict[str, Any], probe: str) -> None:
    asked = container[probe]["httpGet"]
    paths = create_app(Settings()).openapi()["paths"]
    assert asked["path"] in paths
    assert asked["port"] == container["ports"][0]["name"]
    assert ("live" in asked["path"]) == (probe == "livenessProbe")


def test_a_start_is_given_minutes(container: dict[str, Any]) -> None:
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


def test_the_stop_waits_longer_than_the_endpoints_and_the_drain(pod: dict[str, Any], container: dict[str, Any]) -> None:
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = Settings.model_fields["shutdown_grace_s"].default
    assert pod["terminationGracePeriodSeconds"] > pause_s + drain_s


def test_kubernetes_adds_no_settings_of_its_own(pod: dict[str, Any]) -> None:
    assert pod["enableServiceLinks"] is False


def test_what_it_sets_are_settings(container: dict[str, Any]) -> None:
    names = {entry["name"] for entry in container["env"] if entry["name"].startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in names} <= set(Settings.model_fields)


def test_the_threads_follow_the_cpu_limit(container: dict[str, Any]) -> None:
    values = {entry["name"]: entry["value"] for entry in container["env"]}
    assert values["CONVNEXT_CPU_THREADS"] == container["resources"]["limits"]["cpu"]
    assert values["CONVNEXT_DECODE_THREADS"] == container["resources"]["limits"]["cpu"]


def test_it_has_the_images_user_and_no_privileges(pod: dict[str, Any], container: dict[str, Any]) -> None:
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (int(user[1]), int(user[2]))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_image_finds_its_cache_and_tmp_writable(container: dict[str, Any]) -> None:
    cache_dir = re.search(r"CACHE_DIR=(\S+)", (ROOT / "Dockerfile").read_text())
    assert cache_dir is not None
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {cache_dir[1], "/tmp"}  # noqa: S108


def test_the_service_leads_to_the_container(manifests: dict[str, dict[str, Any]], container: dict[str, Any]) -> None:
    (port,) = manifests["Service"]["spec"]["ports"]
    assert port["targetPort"] == container["ports"][0]["name"]
    assert container["ports"][0]["containerPort"] == Settings.model_fields["port"].default
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Service"]["spec"]["selector"].items() <= labels.items()
