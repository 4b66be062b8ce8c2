"""The image, started as each platform starts it; for the image named by TEST_IMAGE, with podman or docker."""

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.constants import ROOT
from tests.reliability.process import free_port, wait_until

IMAGE = os.environ.get("TEST_IMAGE", "")
ENGINE = shutil.which("podman") or shutil.which("docker")
PHOTO = (ROOT / "examples" / "coffee.jpg").read_bytes()
TEXT = base64.b64encode(PHOTO).decode()
START_S = 120

pytestmark = pytest.mark.skipif(not IMAGE or ENGINE is None, reason="TEST_IMAGE names no image, or podman is missing")

Run = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def run() -> Run:
    """``with run(port, health, *options)`` starts a container with the argument ``serve``; waits until it is ready."""

    @contextmanager
    def start(port: int, health: str, *options: str) -> Iterator[httpx.Client]:
        assert ENGINE is not None
        published = free_port()
        command = [ENGINE, "run", "--detach", "--rm", "--publish", f"127.0.0.1:{published}:{port}", *options]
        done = subprocess.run([*command, IMAGE, "serve"], capture_output=True, text=True, check=True, timeout=START_S)
        container = done.stdout.split()[-1]
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{published}", timeout=START_S) as client:

                def ready() -> bool:
                    try:
                        return client.get(health).status_code == 200
                    except httpx.TransportError:
                        return False

                wait_until(ready, START_S)
                yield client
        finally:
            subprocess.run([ENGINE, "stop", container], capture_output=True, check=True, timeout=START_S)

    return start


def test_runs_without_root_and_writes_only_to_its_cache() -> None:
    assert ENGINE is not None
    script = (
        'test "$(id -u)" != 0 && test ! -w /opt/venv && test -w "$CONVNEXT_CACHE_DIR"'
        ' && case "$TRITON_CACHE_DIR" in "$CONVNEXT_CACHE_DIR"/*) ;; *) exit 1;; esac'
    )
    command = [ENGINE, "run", "--rm", "--entrypoint", "sh", IMAGE, "-c", script]
    subprocess.run(command, capture_output=True, check=True, timeout=START_S)


def test_a_compiler_is_there_exactly_if_torch_supports_gpus() -> None:
    assert ENGINE is not None
    script = "import shutil, torch; assert (shutil.which('gcc') is None) == (torch.version.cuda is None)"
    command = [ENGINE, "run", "--rm", "--entrypoint", "python", IMAGE, "-c", script]
    subprocess.run(command, capture_output=True, check=True, timeout=START_S)


def test_the_health_check_is_that_of_compose() -> None:
    assert ENGINE is not None
    service = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["convnext-serve"]
    _, *check = service["healthcheck"]["test"]
    with_status = [ENGINE, "run", "--rm", "--entrypoint", check[0], IMAGE, *check[1:]]
    done = subprocess.run(with_status, capture_output=True, text=True, check=False, timeout=START_S)
    assert (done.returncode, "ConnectionRefusedError" in done.stdout) == (1, True)


def test_sagemaker_serves_the_model_that_it_mounts(run: Run, tiny_path: Path) -> None:
    tiny_path.chmod(0o644)
    with run(8080, "/ping", "--volume", f"{tiny_path}:/opt/ml/model/model.safetensors:ro") as client:
        response = client.post("/invocations", content=PHOTO, headers={"Content-Type": "application/x-image"})
    assert response.json()["predictions"][0]["label"] in {"ant", "bee", "cat", "dog", "eel"}


def test_vertex_ai_sets_port_and_routes(run: Run) -> None:
    variables = {"AIP_HTTP_PORT": "8081", "AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/p"}
    options = [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
    with run(8081, "/h", *options) as client:
        response = client.post("/p", json={"instances": [{"b64": TEXT}], "parameters": {"top_k": 1}})
    assert response.json()["predictions"][0][0]["label"] == "espresso"


def test_hugging_face_and_kserve_are_settings(run: Run) -> None:
    with run(8000, "/health", "--env", "CONVNEXT_PROTOCOLS=huggingface,open_inference,kserve", "--read-only") as client:
        assert client.post("/", json={"inputs": TEXT}).json()[0]["label"] == "espresso"
        assert client.get("/v2/health/ready").status_code == 200
        name = client.get("/v1/models").json()["models"][0]
        response = client.post(f"/v1/models/{name}:predict", json={"instances": [{"b64": TEXT}]})
    assert response.json()["predictions"][0][0]["label"] == "espresso"
