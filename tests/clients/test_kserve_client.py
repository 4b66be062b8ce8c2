"""KServe's own client classifies a photo over a socket, through both of its protocols."""

import json
import subprocess
from pathlib import Path

import pytest
import requests

from tests.constants import ROOT

PYTHON = ROOT / ".venv-kserve" / "bin" / "python"
_TIMEOUT_S = 60


@pytest.mark.skipif(not PYTHON.exists(), reason="KServe's client is not installed: make .venv-kserve")
def test_both_protocols_return_the_classes_of_predict(protocols_url: str, photo_path: Path) -> None:
    photo = photo_path.read_bytes()
    expected = requests.post(f"{protocols_url}/predict", files={"file": photo}, timeout=_TIMEOUT_S).json()
    classes = [item["class_id"] for item in expected["predictions"]]
    script = Path(__file__).with_name("kserve_client.py")
    command = [PYTHON, script, protocols_url, expected["model"], photo_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "ready": True,
        "v1": classes,
        "explained": classes[0],
        "v2": classes,
    }
