"""The engine on a CUDA device, compared with float32 on the CPU; skipped without CUDA."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model import LoadedModel, load_model
from model.errors import EngineError
from model.images.transform import Pixels
from model.inference.cuda.paths import relative_error
from model.inference.engine import InferenceEngine
from model.inference.selection import Precision
from tests.gpu.networks import save_network, smooth_images

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def atto(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("weights") / "atto.safetensors"
    save_network(path)
    return load_model(path)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return smooth_images(16)


@pytest.fixture(scope="module")
def expected(atto: LoadedModel, images: list[Pixels]) -> Logits:
    """The logits ``(16, 100)`` of PyTorch on the CPU in float32."""
    return InferenceEngine(atto, device="cpu", runtime="torch", max_batch_size=16).predict(images)


def probabilities(logits: Logits) -> Logits:
    return torch.from_numpy(logits).softmax(1).numpy()


def test_auto_selects_cuda_and_float16(atto: LoadedModel) -> None:
    engine = InferenceEngine(atto)
    assert (str(engine.device), engine.precision) == ("cuda:0", "float16")


def test_float32_probabilities_equal_those_of_the_cpu(
    atto: LoadedModel, images: list[Pixels], expected: Logits
) -> None:
    logits = InferenceEngine(atto, device="cuda", precision="float32").predict(images)
    assert logits.shape == (16, 100)
    assert logits.dtype == np.float32
    assert logits.argmax(1).tolist() == expected.argmax(1).tolist()
    np.testing.assert_allclose(probabilities(logits), probabilities(expected), atol=5e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_predicts_the_same_class_if_its_margin_is_large(
    atto: LoadedModel, images: list[Pixels], expected: Logits, precision: Precision
) -> None:
    logits = InferenceEngine(atto, device="cuda", precision=precision).predict(images)
    highest = np.sort(probabilities(expected), axis=1)[:, ::-1]
    clear = highest[:, 0] - highest[:, 1] > 0.1
    assert clear.any()
    assert logits[clear].argmax(1).tolist() == expected[clear].argmax(1).tolist()


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_every_batch_size_predicts_the_same_classes_after_the_warm_up(
    atto: LoadedModel, images: list[Pixels], expected: Logits, precision: Precision
) -> None:
    engine = InferenceEngine(atto, device="cuda", precision=precision, max_batch_size=16)
    engine.warm_up()
    assert "graphs" in engine.mode
    assert max(engine.batch_seconds) == engine.max_batch_size == 16
    assert engine.expected_rate > 0
    margins = np.diff(np.sort(probabilities(expected), axis=1)[:, -2:]).ravel()
    clear = margins > (0 if precision == "float32" else 0.1)
    for count in (1, 3, 16):
        found = engine.predict(images[:count]).argmax(1)
        assert found[clear[:count]].tolist() == expected[:count][clear[:count]].argmax(1).tolist()


def test_features_are_those_of_the_cpu(atto: LoadedModel, images: list[Pixels]) -> None:
    engine = InferenceEngine(atto, device="cuda", max_batch_size=4)
    engine.warm_up()
    _, features = engine.predict_with_features(images[:3])
    reference = InferenceEngine(atto, device="cpu", runtime="torch")
    _, expected_features = reference.predict_with_features(images[:3])
    assert relative_error(features, expected_features) < 1e-2


def test_concurrent_calls_get_their_own_results(atto: LoadedModel, images: list[Pixels], expected: Logits) -> None:
    engine = InferenceEngine(atto, device="cuda", precision="float32", max_batch_size=2)
    engine.warm_up()
    assert engine.concurrency == 2
    with ThreadPoolExecutor(4) as workers:
        for _ in range(10):
            parts = list(workers.map(lambda first: engine.predict(images[first : first + 2]), range(0, 16, 2)))
            assert np.concatenate(parts).argmax(1).tolist() == expected.argmax(1).tolist()


def test_memory_does_not_grow_while_serving(atto: LoadedModel, images: list[Pixels]) -> None:
    engine = InferenceEngine(atto, device="cuda", max_batch_size=16)
    engine.warm_up()
    used = []
    for _ in range(3):
        with ThreadPoolExecutor(2) as workers:  # new threads each time
            list(workers.map(lambda _: engine.predict(images), range(20)))
        used.append(torch.cuda.memory_reserved())
    assert used[0] == used[-1]


def test_names_a_cuda_device_that_is_not_available(atto: LoadedModel) -> None:
    with pytest.raises(EngineError, match="cuda:99"):
        InferenceEngine(atto, device="cuda:99")
