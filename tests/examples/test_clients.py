"""The clients in examples/ and the commands in the README, run against a real server."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import MakePhoto
from tests.constants import ROOT

README = (ROOT / "README.md").read_text()
PHOTO = "examples/coffee.jpg"
TIMEOUT_S = 60.0
DOCUMENTED_URL = "http://127.0.0.1:8000"
CURL_COMMANDS = re.findall(r"^curl (?:.*\\\n)*.*$", README, re.MULTILINE)


def client(name: str, runtime: str, *command: str) -> object:
    """A parameter that is skipped if the runtime is not installed."""
    missing = pytest.mark.skipif(shutil.which(runtime) is None, reason=f"{runtime} is not installed")
    return pytest.param([*command, f"examples/{name}"], id=name, marks=missing)


clients = pytest.mark.parametrize(
    "command",
    [
        client("curl.sh", "curl", "sh"),
        client("client.py", sys.executable, sys.executable),
        client("client.js", "node", "node"),
        client("Client.java", "java", "java"),
    ],
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@clients
def test_client_prints_the_prediction(command: list[str], server_url: str) -> None:
    result = run(*command, PHOTO, server_url)
    assert result.returncode == 0, result.stderr
    assert "espresso" in result.stdout


@clients
def test_client_sends_the_sample_photo_by_default(command: list[str], server_url: str, tmp_path: Path) -> None:
    script = ROOT / command[-1]
    local = tmp_path / script.name
    local.write_text(script.read_text().replace(DOCUMENTED_URL, server_url))
    result = run(*command[:-1], str(local))
    assert result.returncode == 0, result.stderr
    assert "espresso" in result.stdout


@clients
def test_client_fails_and_shows_the_error_if_the_image_is_rejected(command: list[str], server_url: str) -> None:
    result = run(*command, "README.md", server_url)
    assert result.returncode != 0
    assert "unsupported-media-type" in result.stdout + result.stderr


def test_the_concurrent_client_prints_each_prediction(server_url: str) -> None:
    result = run(sys.executable, "examples/async_client.py", server_url, *[PHOTO] * 12)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("espresso") == 12


def test_the_search_ranks_the_same_photo_first(server_url: str, tmp_path: Path, make_photo: MakePhoto) -> None:
    with Image.open(ROOT / PHOTO) as photo:
        photo.reduce(2).save(tmp_path / "smaller.png")
    make_photo().save(tmp_path / "other.png")
    others = [str(tmp_path / "other.png"), str(tmp_path / "smaller.png")]
    result = run(sys.executable, "examples/search.py", server_url, PHOTO, *others, PHOTO)
    assert result.returncode == 0, result.stderr
    found = [line.split()[1] for line in result.stdout.splitlines()]
    assert found == [PHOTO, others[1], others[0]]
    assert result.stdout.startswith("1.000")


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", CURL_COMMANDS)
def test_curl_commands_of_the_readme_work(command: str, server_url: str) -> None:
    result = run("sh", "-c", command.replace(DOCUMENTED_URL, server_url))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["predictions"][0]["label"] == "espresso"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_readme_shows_the_response_of_its_first_command(server_url: str) -> None:
    block = re.search(r"^```json\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert block is not None
    documented = json.loads(block[1])
    received = json.loads(run("sh", "-c", CURL_COMMANDS[0].replace(DOCUMENTED_URL, server_url)).stdout)
    assert documented["model"] == received["model"]
    assert len(documented["predictions"]) == len(received["predictions"])
    first, second = documented["predictions"][0], received["predictions"][0]
    assert (first["label"], first["class_id"]) == (second["label"], second["class_id"])
    assert first["probability"] == pytest.approx(second["probability"], abs=0.02)
