"""NVIDIA's own client of the Open Inference Protocol classifies photos over a socket."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

_TIMEOUT_S = 60


@pytest.fixture
def client(protocols_url: str) -> InferenceServerClient:
    """A client with one connection."""
    return InferenceServerClient(protocols_url.removeprefix("http://"), network_timeout=_TIMEOUT_S)


@pytest.fixture
def name(protocols_url: str) -> str:
    """The name of the model."""
    model: str = requests.get(f"{protocols_url}/model", timeout=_TIMEOUT_S).json()["name"]
    return model


def bytes_input(*photos: bytes) -> InferInput:
    """Encoded photos as a tensor of BYTES."""
    tensor = InferInput("image", [len(photos)], "BYTES")
    return tensor.set_data_from_numpy(np.array(photos, object))


def uint8_input(photo: bytes) -> InferInput:
    """One encoded photo as a tensor of UINT8."""
    tensor = InferInput("image", [1, len(photo)], "UINT8")
    return tensor.set_data_from_numpy(np.frombuffer(photo, np.uint8)[None])


def test_metadata_and_health(client: InferenceServerClient, name: str) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(name, "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "convnext-serve"
    assert [tensor["name"] for tensor in client.get_model_metadata(name)["inputs"]] == ["image"]


@pytest.mark.parametrize("binary", [True, False])
def test_results_equal_those_of_predict(
    client: InferenceServerClient, protocols_url: str, name: str, photo_path: Path, binary: bool
) -> None:
    photo = photo_path.read_bytes()
    expected = requests.post(f"{protocols_url}/predict", files={"file": photo}, timeout=_TIMEOUT_S).json()
    outputs = [InferRequestedOutput(output, binary) for output in ("label", "class_id", "probability")]
    result = client.infer(name, [bytes_input(photo, photo)], outputs=outputs, parameters={"top_k": 3})
    labels = result.as_numpy("label")
    assert labels.shape == (2, 3)
    top = expected["predictions"][:3]
    texts = [[value.decode() if isinstance(value, bytes) else value for value in row] for row in labels]
    assert texts == [[item["label"] for item in top]] * 2
    assert result.as_numpy("class_id").tolist() == [[item["class_id"] for item in top]] * 2
    assert result.as_numpy("probability")[0] == pytest.approx([item["probability"] for item in top], rel=1e-4)


@pytest.mark.parametrize("make_input", [bytes_input, uint8_input])
def test_both_datatypes_are_accepted(
    client: InferenceServerClient, name: str, photo_path: Path, make_input: Callable[[bytes], InferInput]
) -> None:
    result = client.infer(name, [make_input(photo_path.read_bytes())], request_id="42")
    assert result.get_response()["id"] == "42"
    assert result.as_numpy("class_id").shape[0] == 1


def test_an_error_reaches_the_client(client: InferenceServerClient, name: str) -> None:
    with pytest.raises(InferenceServerException, match="image"):
        client.infer(name, [bytes_input(b"no image")])
