"""The Kubernetes manifests as kustomize builds them: schemas, probes, timeouts and restrictions."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.main import create_app
from app.settings import PREFIX, Settings
from tests.constants import ROOT

FOLDER = ROOT / "docker" / "kubernetes"
OVERLAYS = ["overlays/cpu", "overlays/gpu"]

Yaml = dict[str, Any]  # Any: the schema is that of the Kubernetes API

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def build(folder: Path) -> dict[str, Yaml]:
    """What ``kubectl kustomize`` prints, by kind."""
    command = ["kubectl", "kustomize", str(folder)]
    output = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return {document["kind"]: document for document in yaml.safe_load_all(output)}


@pytest.fixture(scope="module", params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> dict[str, Yaml]:
    return build(FOLDER / request.param)


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Yaml]) -> Yaml:
    spec: Yaml = manifests["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: Yaml) -> Yaml:
    [container] = pod["containers"]
    result: Yaml = container
    return result


def test_every_manifest_is_valid_in_strict_mode(manifests: dict[str, Yaml]) -> None:
    assert set(manifests) == {
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Service",
    }
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, "1.32", strict=True)


def test_a_misspelled_field_is_not_valid(manifests: dict[str, Yaml]) -> None:
    deployment = manifests["Deployment"]
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment | {"spec": deployment["spec"] | {"replicaz": 1}}, "1.32", strict=True)


def test_the_overlay_sets_registry_and_tag(container: Yaml) -> None:
    registry, _, tag = container["image"].rpartition(":")
    assert registry == "registry.example.org/convnext-serve"
    assert tag


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_use_routes_that_exist(container: Yaml, probe: str) -> None:
    request = container[probe]["httpGet"]
    assert request["path"] in create_app(Settings()).openapi()["paths"]
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


def test_the_gpu_overlay_alone_reserves_a_gpu_and_requires_it() -> None:
    for overlay in OVERLAYS:
        [container] = build(FOLDER / overlay)["Deployment"]["spec"]["template"]["spec"]["containers"]
        devices = {entry["value"] for entry in container["env"] if entry["name"] == "CONVNEXT_DEVICE"}
        assert devices == {"cuda" if "gpu" in overlay else "cpu"}
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == ("gpu" in overlay)


def test_the_root_is_read_only_and_fetched_weights_are_on_a_claim(
    manifests: dict[str, Yaml], pod: Yaml, container: Yaml
) -> None:
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/var/cache/convnext"]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    claim = manifests["PersistentVolumeClaim"]["metadata"]["name"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim


def test_every_selector_selects_the_pods(manifests: dict[str, Yaml], pod: Yaml) -> None:
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    [spread] = pod["topologySpreadConstraints"]
    for selector in (
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels.items()


def test_the_network_policy_opens_the_port_alone(manifests: dict[str, Yaml], container: Yaml) -> None:
    policy = manifests["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    [rule] = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == [port["name"] for port in container["ports"]]


def test_autoscaling_scales_the_deployment_on_queue_wait(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "cpu"
    with (overlay / "kustomization.yml").open("a") as file:
        file.write("components: [../../components/autoscaling]\n")
    manifests = build(overlay)
    scaled, deployment = manifests["ScaledObject"]["spec"], manifests["Deployment"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    [trigger] = scaled["triggers"]
    assert "convnext_queue_wait_seconds_sum" in trigger["metadata"]["query"]
    assert float(trigger["metadata"]["threshold"]) < Settings.model_fields["max_queue_wait_s"].default


def test_kserve_runs_the_same_image_with_its_protocols_on() -> None:
    manifests = build(FOLDER / "kserve")
    runtime = manifests["ServingRuntime"]["spec"]
    model = manifests["InferenceService"]["spec"]["predictor"]["model"]
    assert model["runtime"] == manifests["ServingRuntime"]["metadata"]["name"]
    assert model["protocolVersion"] in runtime["protocolVersions"]
    assert model["modelFormat"]["name"] in {entry["name"] for entry in runtime["supportedModelFormats"]}
    [container] = runtime["containers"]
    [serving] = build(FOLDER / "overlays/cpu")["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == serving["image"]
    assert {"name": "CONVNEXT_PROTOCOLS", "value": "open_inference,kserve"} in container["env"]
    # KServe's containers are those of a pod, whose schema is known.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    spec = {"containers": runtime["containers"], "volumes": runtime["volumes"]}
    kubernetes_validate.validate(pod | {"spec": spec}, "1.32", strict=True)
