"""Models of the Hub, from a local server that speaks its routes."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

from model.checkpoints.hub import is_repository
from tests.constants import WAIT_S

COMMIT = "c" * 40
REPOSITORY = "someone/mine"
LOAD = """
import sys
from pathlib import Path
from model import load_model
model = load_model(sys.argv[1], cache_dir=Path(sys.argv[2]))
print(model.name, *model.labels)
"""


class HubHandler(BaseHTTPRequestHandler):
    folder: Path

    def do_HEAD(self) -> None:
        self.respond(with_body=False)

    def do_GET(self) -> None:
        self.respond(with_body=True)

    def respond(self, *, with_body: bool) -> None:
        path = unquote(urlparse(self.path).path)
        files = sorted(self.folder.iterdir())
        if self.headers["Authorization"] != "Bearer hf_secret":
            self.send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            items = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40} for file in files
            ]
            self.send(200, json.dumps(items).encode())
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": file.name} for file in files]
            self.send(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            content = (self.folder / path.rpartition("/")[2]).read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()}"'
            headers = {"ETag": etag, "X-Repo-Commit": COMMIT}
            self.send(200, content, headers, with_body=with_body)
        else:
            self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    labels = {0: "cat", 1: "dog", 2: "owl"}
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], id2label=labels)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "repository")
    ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(tmp_path / "repository")
    return tmp_path / "repository"


@pytest.fixture
def endpoint(folder: Path) -> Iterator[str]:
    """The URL of a Hub with the one repository, which is private."""

    handler = type("Handler", (HubHandler,), {"folder": folder})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(WAIT_S)


def load(name: str, cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOAD, name, str(cache)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=100, check=False)


def test_a_private_repository_is_fetched_once_and_served_offline(endpoint: str, tmp_path: Path) -> None:
    online = {"HF_ENDPOINT": endpoint, "HF_TOKEN": "hf_secret"}
    first = load(REPOSITORY, tmp_path / "cache", **online)
    assert first.stdout.split() == [REPOSITORY, "cat", "dog", "owl"], first.stderr
    offline = load(REPOSITORY, tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert offline.stdout == first.stdout
    pinned = load(f"{REPOSITORY}@{COMMIT}", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert pinned.stdout.split()[1:] == ["cat", "dog", "owl"]


FETCH = """
import sys
from pathlib import Path
from model.checkpoints.download import fetch
print(fetch(sys.argv[1], Path(sys.argv[2]), sha256=sys.argv[3] or None))
"""


@pytest.mark.parametrize(("token", "digest"), [("hf_secret", ""), ("hf_secret", "0123"), ("hf_wrong", "")])
def test_a_registered_file_of_the_hub_is_fetched_and_verified(
    endpoint: str, folder: Path, tmp_path: Path, token: str, digest: str
) -> None:
    file = tmp_path / "cache" / "mine" / "model.safetensors"
    url = f"https://huggingface.co/{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    command = [sys.executable, "-c", FETCH, url, str(file), digest]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_TOKEN": token}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    if token == "hf_wrong" or digest:
        assert f"DownloadError: Could not fetch {url}" in result.stderr
        assert str(file) in result.stderr
        assert not file.exists()
    else:
        assert result.stdout.strip() == hashlib.sha256(file.read_bytes()).hexdigest(), result.stderr
        assert file.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_repository_that_is_not_accessible_is_an_error(endpoint: str, tmp_path: Path) -> None:
    result = load(REPOSITORY, tmp_path / "cache", HF_ENDPOINT=endpoint, HF_TOKEN="hf_wrong")
    assert result.returncode == 1
    assert f"DownloadError: {REPOSITORY}" in result.stderr


def test_a_repository_with_other_weights_is_an_error(endpoint: str, folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").rename(folder / "best.pth")
    result = load(REPOSITORY, tmp_path / "cache", HF_ENDPOINT=endpoint, HF_TOKEN="hf_secret")
    assert result.returncode == 1
    assert f"hf download {REPOSITORY}" in result.stderr


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timm/convnext_tiny.in12k", True),
        ("a/b@main", True),
        ("/models/mine", False),
        ("mine", False),
        ("a/b/c", False),
    ],
)
def test_recognizes_names_of_repositories(name: str, expected: bool) -> None:
    assert is_repository(name) is expected
