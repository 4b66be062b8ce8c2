"""Clients that are generated from /openapi.json classify a photo, and return problems as such."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.constants import ROOT

VENV = ROOT / ".venv-openapi"
SCRIPTS = Path(__file__).with_name("generated")
_TIMEOUT_S = 100

Result = dict[str, Any]  # Any: JSON

pytestmark = pytest.mark.timeout(300)  # Java and tsc take half a minute each on a busy core


def tool(path: Path | str) -> str:
    """The path of a program. Skips the test if it is not installed."""
    found = shutil.which(path)
    if found is None:
        pytest.skip(f"{Path(path).name} is not installed: make .venv-openapi, with Java, Node.js and npm")
    return found


def run(*command: str, folder: Path, **environment: str) -> str:
    """The output of a program."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**inherited, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def openapi_generator(language: str, description: Path, output: Path) -> None:
    tool("java")
    program = tool(VENV / "bin" / "openapi-generator-cli")
    run(program, "generate", "-i", str(description), "-g", language, "-o", str(output), folder=output.parent)


def use_openapi_generator_python(description: Path, folder: Path, arguments: list[str]) -> str:
    openapi_generator("python", description, folder / "client")
    script = str(SCRIPTS / "openapi_generator.py")
    return run(tool(VENV / "bin" / "python"), script, *arguments, folder=folder, PYTHONPATH=str(folder / "client"))


def use_openapi_python_client(description: Path, folder: Path, arguments: list[str]) -> str:
    program = tool(VENV / "bin" / "openapi-python-client")
    output = folder / "openapi_client"
    run(program, "generate", "--path", str(description), "--output-path", str(output), "--meta", "none", folder=folder)
    script = str(SCRIPTS / "openapi_python_client.py")
    return run(tool(VENV / "bin" / "python"), script, *arguments, folder=folder, PYTHONPATH=str(folder))


def use_typescript_fetch(description: Path, folder: Path, arguments: list[str]) -> str:
    node, compiler = tool("node"), tool(VENV / "node_modules" / ".bin" / "tsc")
    openapi_generator("typescript-fetch", description, folder / "client")
    shutil.copy(SCRIPTS / "typescript_fetch.ts", folder)
    options = ["--strict", "--target", "es2022", "--lib", "es2022,dom", "--module", "commonjs"]
    run(compiler, *options, "typescript_fetch.ts", folder=folder)
    return run(node, "typescript_fetch.js", *arguments, folder=folder)


@pytest.fixture(scope="module")
def expected(service_url: str, photo_path: Path) -> Result:
    """What each client must return."""
    photo = photo_path.read_bytes()

    def post(path: str) -> Result:
        response = requests.post(f"{service_url}{path}", files={"file": photo}, timeout=_TIMEOUT_S)
        content: Result = response.json()
        return content

    classes = [item["class_id"] for item in post("/predict?top_k=3")["predictions"]]
    return {
        "model": requests.get(f"{service_url}/model", timeout=_TIMEOUT_S).json()["name"],
        "labels": len(requests.get(f"{service_url}/model/labels", timeout=_TIMEOUT_S).json()["labels"]),
        "status": "ready",
        "classes": classes,
        "batch": classes[:1],
        "explained": classes[0],
        "dimensions": post("/embed")["dimensions"],
        "problems": ["unsupported-media-type", "unsupported-media-type", "invalid-request"],
    }


@pytest.mark.parametrize("use", [use_openapi_generator_python, use_openapi_python_client, use_typescript_fetch])
def test_a_generated_client_classifies_a_photo_and_returns_problems(
    service_url: str,
    photo_path: Path,
    expected: Result,
    tmp_path: Path,
    use: Callable[[Path, Path, list[str]], str],
) -> None:
    description = tmp_path / "openapi.json"
    description.write_bytes(requests.get(f"{service_url}/openapi.json", timeout=_TIMEOUT_S).content)
    photo = tmp_path / "photo.jpg"
    shutil.copy(photo_path, photo)
    output = use(description, tmp_path, [service_url, str(photo)])
    assert json.loads(output.splitlines()[-1]) == expected
