"""NVIDIA's own client of the Open Inference Protocol classifies photos over a socket."""

import base64
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tests.clients.conftest import running_server

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


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False])
def test_requests_may_be_compressed(
    client: InferenceServerClient, name: str, photo_path: Path, algorithm: str, binary: bool
) -> None:
    photo = photo_path.read_bytes()
    plain = client.infer(name, [bytes_input(photo)]).as_numpy("class_id")
    tensor = bytes_input(photo)
    if not binary:
        text = base64.b64encode(photo).decode()
        tensor = InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text], object), binary_data=False)
    result = client.infer(
        name, [tensor], request_compression_algorithm=algorithm, response_compression_algorithm="gzip"
    )
    assert result.as_numpy("class_id").tolist() == plain.tolist()


@pytest.mark.parametrize("binary", [True, False])
def test_the_softmax_of_requested_logits_are_the_probabilities(
    client: InferenceServerClient, name: str, photo_path: Path, binary: bool
) -> None:
    names = ("logits", "score", "class_id", "probability")
    outputs = [InferRequestedOutput(output, binary) for output in names]
    result = client.infer(name, [bytes_input(photo_path.read_bytes())], outputs=outputs)
    [logits], [score], [class_id], [probability] = (result.as_numpy(output) for output in names)
    assert score == pytest.approx(logits[class_id])
    assert probability == pytest.approx((np.exp(logits) / np.exp(logits).sum())[class_id], rel=1e-4)


@pytest.mark.parametrize(
    ("model", "version", "photo", "status"),
    [("other", "", b"", "404"), (None, "7", b"", "404"), (None, "", b"no image", "415"), (None, "", bytes(10), "415")],
)
def test_every_error_has_a_message(
    client: InferenceServerClient, name: str, model: str | None, version: str, photo: bytes, status: str
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        client.infer(model or name, [bytes_input(photo)], model_version=version)
    assert raised.value.status() == status
    assert raised.value.message()


def test_what_the_server_does_not_have_is_an_error_with_a_message(client: InferenceServerClient, name: str) -> None:
    for call in (client.get_model_repository_index, client.get_inference_statistics, client.get_trace_settings):
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert raised.value.status() == "404"
    with pytest.raises(InferenceServerException):
        client.get_model_config(name)


def test_a_missed_deadline_is_an_error_with_a_message(photo_path: Path) -> None:
    options = ("--protocols", "open_inference", "--request-timeout-s", "0.001")
    with running_server(*options) as url:
        slow = InferenceServerClient(url.removeprefix("http://"), network_timeout=_TIMEOUT_S)
        with pytest.raises(InferenceServerException) as raised:
            slow.infer("convnext_atto_tiny_imagenet_200", [bytes_input(photo_path.read_bytes())])
    assert raised.value.status() in ("503", "504")
    assert raised.value.message()
