"""OpenVINO's graph of every kind of folded network gives PyTorch's logits."""

import numpy as np
import openvino as ov
import pytest
import torch

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import EngineError
from model.inference.fold import fold
from model.inference.openvino_runtime import OpenVinoRuntime, build_graph
from tests.model.kinds import KINDS

SIZE = 32


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def folded(randomise, **kind) -> ConvNeXt:
    return fold(randomise(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5, **kind))), Transform(SIZE, SIZE))


def runtime_of(network: ConvNeXt, dtype: torch.dtype = torch.float32) -> OpenVinoRuntime:
    return OpenVinoRuntime(network, dtype, SIZE, threads=1)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_logits_are_pytorchs(randomise, images, kind):
    network = folded(randomise, **kind)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2).float())
    assert expected.std() > 0.01
    found = runtime_of(network).logits(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_any_number_of_images_runs(randomise, images, count):
    runtime = runtime_of(folded(randomise))
    batch = np.resize(images, (count, SIZE, SIZE, 3))
    logits = runtime.logits(batch)
    assert logits.shape == (count, 5)
    torch.testing.assert_close(logits[:1].clone(), runtime.logits(batch[:1]), atol=1e-4, rtol=1e-4)


def test_the_graph_never_transposes_activations(randomise):
    graph = build_graph(folded(randomise), SIZE)
    kinds = [operation.get_type_name() for operation in graph.get_ops()]
    assert kinds.count("Transpose") == 1  # of the pixels


def test_a_precision_that_the_cpu_lacks_is_refused(randomise):
    can = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    network = folded(randomise)
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "FP16")):
        if name in can:
            assert runtime_of(network, dtype).mode == "openvino"
        else:
            with pytest.raises(EngineError, match=f"does not compute in {dtype}"):
                runtime_of(network, dtype)


def test_a_layer_without_counterpart_is_named(randomise):
    network = folded(randomise)
    network.stem.append(torch.nn.Tanh())
    with pytest.raises(EngineError, match="Tanh"):
        build_graph(network, SIZE)
