"""The Kubernetes manifest, parsed but not applied: probes, timeouts and restrictions."""

import os
import shutil
import string
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.main import create_app
from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker" / "kubernetes.yml").read_text()
IMAGE = {"REGISTRY": "registry.example.org", "TAG": "1.2.3"}

Yaml = dict[str, Any]  # Any: the schema is that of the Kubernetes API


@pytest.fixture(scope="module")
def manifests() -> dict[str, Yaml]:
    documents = yaml.safe_load_all(string.Template(TEXT).substitute(IMAGE))
    return {document["kind"]: document for document in documents}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Yaml]) -> Yaml:
    spec: Yaml = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Yaml) -> Yaml:
    containers: list[Yaml] = pod["containers"]
    assert len(containers) == 1
    return containers[0]


def test_image_is_built_from_the_registry_and_the_tag(container: Yaml) -> None:
    assert container["image"] == "registry.example.org/convnext-serve:1.2.3"


@pytest.mark.skipif(shutil.which("envsubst") is None, reason="envsubst is not installed")
def test_envsubst_replaces_nothing_but_the_placeholders() -> None:
    result = subprocess.run(
        ["envsubst"], input=TEXT, env=os.environ | IMAGE, capture_output=True, text=True, timeout=30, check=True
    )
    assert result.stdout == string.Template(TEXT).substitute(IMAGE)


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_use_routes_that_exist(container: Yaml, probe: str) -> None:
    request = container[probe]["httpGet"]
    paths = create_app(Settings()).openapi()["paths"]
    assert request["path"] in paths
    assert request["port"] == container["ports"][0]["name"]
    assert ("live" in request["path"]) == (probe == "livenessProbe")


def test_start_up_may_take_minutes(container: Yaml) -> None:
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


def test_termination_waits_longer_than_pre_stop_and_drain(pod: Yaml, container: Yaml) -> None:
    pause_s = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = Settings.model_fields["shutdown_grace_s"].default
    assert pod["terminationGracePeriodSeconds"] > pause_s + drain_s


def test_kubernetes_adds_no_variables_of_its_own(pod: Yaml) -> None:
    assert pod["enableServiceLinks"] is False


def test_environment_variables_are_settings(container: Yaml) -> None:
    names = {entry["name"] for entry in container["env"] if entry["name"].startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in names} <= set(Settings.model_fields)


def test_a_cpu_limit_sets_the_thread_counts(container: Yaml) -> None:
    assert int(container["resources"]["limits"]["cpu"]) >= 1
    assert not {"CONVNEXT_CPU_THREADS", "CONVNEXT_DECODE_THREADS"} & {entry["name"] for entry in container["env"]}


def test_the_network_policy_selects_the_pod_and_opens_its_port_alone(
    manifests: dict[str, Yaml], container: Yaml
) -> None:
    policy = manifests["NetworkPolicy"]["spec"]
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    [rule] = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [port["name"] for port in container["ports"]]
