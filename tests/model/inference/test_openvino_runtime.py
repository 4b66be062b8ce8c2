"""OpenVINO's graph of every kind of folded network returns PyTorch's logits."""

import os
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch

from model.convnext import ConvNeXt
from model.errors import EngineError
from model.images.transform import Pixels
from model.inference.openvino_runtime import OpenVinoRuntime, build_graph
from tests.model.inference.conftest import folded
from tests.model.kinds import KINDS

SIZE = 32


@pytest.fixture
def images() -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)


def runtime_of(network: ConvNeXt, dtype: torch.dtype = torch.float32) -> OpenVinoRuntime:
    return OpenVinoRuntime(network, dtype, SIZE, threads=1)


@pytest.mark.parametrize("kind", [*KINDS, {"patch_size": 3}], ids=str)  # 3 does not divide SIZE
def test_logits_equal_those_of_pytorch(images: Pixels, kind: dict[str, Any]) -> None:  # Any: as in KINDS
    network = folded(**kind)
    with torch.inference_mode():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(
        runtime_of(network).run(list(images), 4, idle=False).logits, expected, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_runs_any_number_of_images(images: Pixels, count: int) -> None:
    runtime = runtime_of(folded())
    batch = list(np.resize(images, (count, SIZE, SIZE, 3)))
    logits = runtime.run(batch, count, idle=False).logits
    assert logits.shape == (count, 5)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits[:1], runtime.run(batch[:1], 1, idle=True).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decode_s", [1e-6, 1e-3, 10.0])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_logits_are_the_same_after_tuning(images: Pixels, threads: int, decode_s: float) -> None:
    runtime = OpenVinoRuntime(folded(), torch.float32, SIZE, threads=threads)
    expected = runtime.run(list(images), 3, idle=False).logits
    runtime.tune(list(images), [1, 3], decode_s)
    assert 1 <= runtime.concurrency <= threads
    for idle in (True, False):
        np.testing.assert_allclose(runtime.run(list(images), 3, idle=idle).logits, expected, atol=1e-4)
        np.testing.assert_allclose(runtime.run(list(images[:1]), 1, idle=idle).logits, expected[:1], atol=1e-4)


def test_a_network_much_faster_than_decoding_gets_one_stream(images: Pixels) -> None:
    runtime = OpenVinoRuntime(folded(), torch.float32, SIZE, threads=2)
    runtime.tune(list(images), [1, 3], decode_s=10.0)
    assert runtime.concurrency == 1


def test_the_graph_never_transposes_activations() -> None:
    graph = build_graph(folded(), SIZE)
    kinds = [operation.get_type_name() for operation in graph.get_ops()]
    assert kinds.count("Transpose") == 1  # of the input


def test_rejects_a_precision_that_the_cpu_does_not_support() -> None:
    """ONEDNN_MAX_CPU_ISA may exclude capabilities that OpenVINO reports, so either outcome is correct with it."""
    supported = set(ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    network = folded()
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float16, "FP16")):
        try:
            runtime = runtime_of(network, dtype)
        except EngineError as error:
            assert str(dtype) in str(error)  # noqa: PT017 - either outcome is correct
            assert name not in supported or "ONEDNN_MAX_CPU_ISA" in os.environ
        else:
            assert runtime.mode == "openvino"


@pytest.mark.parametrize("kind", [{}, {"norm_before_pool": True}], ids=str)
def test_the_head_computes_in_float32(images: Pixels, kind: dict[str, Any]) -> None:  # Any: as in KINDS
    network = folded(**kind)
    try:
        runtime = runtime_of(network, torch.bfloat16)
    except EngineError:
        pytest.skip("this CPU does not compute bfloat16")
    logits, features = runtime.run(list(images), 4, idle=False, features=True)
    assert features is not None
    with torch.inference_mode():
        exact = network.head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(logits, exact, atol=1e-5, rtol=1e-5)


def test_names_a_layer_that_has_no_openvino_operation() -> None:
    network = folded()
    network.stem.append(torch.nn.Tanh())
    with pytest.raises(EngineError, match="Tanh"):
        build_graph(network, SIZE)
