"""The engine on a CUDA device, compared with float32 on the CPU; skipped without CUDA."""

import functools
from collections.abc import Callable
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

TOLERANCES: dict[Precision, float] = {"float32": 1e-2, "float16": 1e-2, "bfloat16": 8e-2}  # relative errors of logits
COUNT = 8


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_network(path)
    return load_model(path)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    return smooth_images(COUNT)


@pytest.fixture(scope="module")
def expected(small: LoadedModel, images: list[Pixels]) -> Logits:
    """The logits ``(COUNT, 100)`` of PyTorch on the CPU in float32."""
    return InferenceEngine(small, device="cpu", runtime="torch", max_batch_size=COUNT).predict(images)


@pytest.fixture(scope="module")
def warm(small: LoadedModel) -> Callable[[Precision], InferenceEngine]:
    """The warmed-up engine of a precision."""

    @functools.cache
    def engine_of(precision: Precision) -> InferenceEngine:
        engine = InferenceEngine(small, device="cuda", precision=precision, max_batch_size=COUNT)
        engine.warm_up()
        return engine

    return engine_of


def assert_close(logits: Logits, expected: Logits, precision: Precision) -> None:
    """The error is small, and classes are the same unless it may change the order of two logits."""
    assert logits.shape == expected.shape
    assert logits.dtype == np.float32
    tolerance = TOLERANCES[precision]
    assert relative_error(logits, expected) < tolerance
    margins = np.diff(np.sort(expected, axis=1)[:, -2:]).ravel()
    clear = margins > 4 * tolerance * np.sqrt(np.mean(expected**2))
    assert logits[clear].argmax(1).tolist() == expected[clear].argmax(1).tolist()


def test_auto_selects_cuda_and_float16(small: LoadedModel) -> None:
    engine = InferenceEngine(small)
    assert (str(engine.device), engine.precision) == ("cuda:0", "float16")


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_result_is_that_of_the_cpu_before_the_warm_up(
    small: LoadedModel, images: list[Pixels], expected: Logits, precision: Precision
) -> None:
    engine = InferenceEngine(small, device="cuda", precision=precision, max_batch_size=COUNT)
    assert_close(engine.predict(images), expected, precision)


@pytest.mark.parametrize("precision", TOLERANCES)
def test_the_result_of_every_batch_size_is_that_of_the_cpu_after_the_warm_up(
    warm: Callable[[Precision], InferenceEngine], images: list[Pixels], expected: Logits, precision: Precision
) -> None:
    engine = warm(precision)
    assert "graphs" in engine.mode
    assert max(engine.batch_seconds) == engine.max_batch_size == COUNT
    assert engine.expected_rate > 0
    for count in (1, 3, COUNT):
        assert_close(engine.predict(images[:count]), expected[:count], precision)


def test_features_are_those_of_the_cpu(
    small: LoadedModel, warm: Callable[[Precision], InferenceEngine], images: list[Pixels]
) -> None:
    _, features = warm("float16").predict_with_features(images[:3])
    _, expected = InferenceEngine(small, device="cpu", runtime="torch").predict_with_features(images[:3])
    assert relative_error(features, expected) < 1e-2


def test_concurrent_calls_get_their_own_results(
    warm: Callable[[Precision], InferenceEngine], images: list[Pixels], expected: Logits
) -> None:
    engine = warm("float32")
    assert engine.concurrency == 2
    with ThreadPoolExecutor(4) as workers:
        for _ in range(10):
            parts = list(workers.map(lambda first: engine.predict(images[first : first + 2]), range(0, COUNT, 2)))
            assert_close(np.concatenate(parts), expected, "float32")


def test_memory_does_not_grow_while_serving(warm: Callable[[Precision], InferenceEngine], images: list[Pixels]) -> None:
    engine = warm("float16")
    used = []
    for _ in range(3):
        with ThreadPoolExecutor(2) as workers:  # new threads each time
            list(workers.map(lambda _: engine.predict(images), range(20)))
        used.append(torch.cuda.memory_reserved())
    assert used[0] == used[-1]


def test_names_a_cuda_device_that_is_not_available(small: LoadedModel) -> None:
    with pytest.raises(EngineError, match="cuda:99"):
        InferenceEngine(small, device="cuda:99")
