"""The engine on a CUDA device, compared with float32 on the CPU; skipped without CUDA."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model import LoadedModel, Transform, load_model
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, config_for
from model.errors import EngineError
from model.images.transform import Pixels
from model.inference.engine import InferenceEngine, Precision

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

Logits = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def atto(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A network of a published size with random weights, whose logits differ between images."""
    config = config_for("atto", num_classes=100)
    network = ConvNeXt(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.2, 0.8, generator=generator)
        network.head.fc.weight.normal_(generator=generator)
    path: Path = tmp_path_factory.mktemp("weights") / "atto.safetensors"
    labels = tuple(map(str, range(100)))
    save_checkpoint(path, network.state_dict(), config, Transform(236), labels, name="atto", licence="CC0-1.0")
    return load_model(path)


@pytest.fixture(scope="module")
def images() -> list[Pixels]:
    """Sixteen smooth random images."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (16, 3, 9, 9)))
    fine = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 255)
    return list(fine.permute(0, 2, 3, 1).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def expected(atto: LoadedModel, images: list[Pixels]) -> Logits:
    """The logits ``(16, 100)`` of PyTorch on the CPU in float32."""
    return InferenceEngine(atto, device="cpu", runtime="torch", max_batch_size=16).predict(images)


def probabilities(logits: Logits) -> Logits:
    return torch.from_numpy(logits).softmax(1).numpy()


def test_auto_selects_cuda_and_bfloat16_if_the_device_supports_it(atto: LoadedModel) -> None:
    engine = InferenceEngine(atto)
    assert (str(engine.device), engine.mode) == ("cuda:0", "eager")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert engine.precision == ("bfloat16" if native else "float32")


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


def test_every_batch_size_predicts_the_same_classes_after_the_warm_up(
    atto: LoadedModel, images: list[Pixels], expected: Logits
) -> None:
    engine = InferenceEngine(atto, device="cuda", precision="float32", max_batch_size=16)
    engine.warm_up()
    assert max(engine.batch_seconds) == engine.max_batch_size == 16
    assert engine.expected_rate > 0
    for count in (1, 3, 16):
        assert engine.predict(images[:count]).argmax(1).tolist() == expected[:count].argmax(1).tolist()


def test_concurrent_calls_get_their_own_results(atto: LoadedModel, images: list[Pixels], expected: Logits) -> None:
    engine = InferenceEngine(atto, device="cuda", precision="float32", max_batch_size=2)
    engine.warm_up()
    assert engine.concurrency >= 1
    with ThreadPoolExecutor(engine.concurrency) as workers:
        parts = list(workers.map(lambda first: engine.predict(images[first : first + 2]), range(0, 16, 2)))
    assert np.concatenate(parts).argmax(1).tolist() == expected.argmax(1).tolist()


def test_names_a_cuda_device_that_is_not_available(atto: LoadedModel) -> None:
    with pytest.raises(EngineError, match="cuda:99"):
        InferenceEngine(atto, device="cuda:99")
