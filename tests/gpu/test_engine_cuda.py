"""The engine on a CUDA device; without one, nothing here runs."""

import numpy as np
import pytest
import torch

from model.convnext import ConvNeXt, config_for
from model.errors import EngineError
from model.inference.engine import InferenceEngine

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)


@pytest.fixture(scope="module")
def atto(tmp_path_factory):
    """A network of a published size with random weights whose answers are far from even."""
    from model import Transform, load_model
    from model.checkpoints.native import save_checkpoint

    config = config_for("atto", num_classes=100)
    network = ConvNeXt(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.2, 0.8, generator=generator)
        network.head.fc.weight.normal_(generator=generator)
    path = tmp_path_factory.mktemp("weights") / "atto.safetensors"
    labels = tuple(map(str, range(100)))
    save_checkpoint(path, network.state_dict(), config, Transform(236), labels, name="atto", licence="CC0-1.0")
    return load_model(path)


@pytest.fixture(scope="module")
def images():
    """Sixteen smooth random images."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (16, 3, 9, 9)))
    fine = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(0, 255)
    return list(fine.permute(0, 2, 3, 1).to(torch.uint8).numpy())


@pytest.fixture(scope="module")
def expected(atto, images):
    """What PyTorch computes on the CPU in float32."""
    return InferenceEngine(atto, device="cpu", runtime="torch", max_batch_size=16).predict(images, top_k=5)


def test_auto_is_cuda_in_bfloat16_where_it_computes_in_it(atto):
    engine = InferenceEngine(atto)
    assert (str(engine.device), engine.mode) == ("cuda:0", "eager")
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    assert engine.precision == ("bfloat16" if native else "float32")


def test_float32_answers_are_those_of_the_cpu(atto, images, expected):
    found = InferenceEngine(atto, device="cuda", precision="float32").predict(images, top_k=5)
    assert found.class_ids[:, 0].tolist() == expected.class_ids[:, 0].tolist()
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=5e-3)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_names_the_same_class_wherever_it_is_clear(atto, images, expected, precision):
    found = InferenceEngine(atto, device="cuda", precision=precision).predict(images, top_k=5)
    clear = expected.probabilities[:, 0] - expected.probabilities[:, 1] > 0.1
    assert clear.any()
    assert found.class_ids[clear, 0].tolist() == expected.class_ids[clear, 0].tolist()


def test_every_batch_size_is_warmed_up_and_answers_alike(atto, images, expected):
    engine = InferenceEngine(atto, device="cuda", precision="float32", max_batch_size=16)
    engine.warm_up()
    assert max(engine.batch_seconds) == engine.max_batch_size == 16
    for count in (1, 3, 16):
        found = engine.predict(images[:count], top_k=1)
        assert found.class_ids[:, 0].tolist() == expected.class_ids[:count, 0].tolist()


def test_a_second_device_that_is_not_there_is_named(atto):
    with pytest.raises(EngineError, match="cuda:99"):
        InferenceEngine(atto, device="cuda:99")
