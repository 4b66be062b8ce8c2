"""The PyTorch runtime returns the logits of the folded network, and compiles it only on request."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from model.convnext import ConvNeXt
from model.inference.compilation import compiled_for_each_size
from model.inference.precise_head import PreciseHead
from model.inference.torch_runtime import TorchRuntime
from tests.model.inference.conftest import folded

CPU = torch.device("cpu")


def runtime_of(network: ConvNeXt, dtype: torch.dtype = torch.float32, *, compiled: bool = False) -> TorchRuntime:
    return TorchRuntime(network, CPU, dtype, compiled=compiled, threads=1)


def test_logits_equal_those_of_the_network() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = folded()(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert expected.std() > 0.01
    found = runtime_of(folded()).run(list(images), 4, idle=True).logits
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_activations_are_channels_last_in_the_requested_dtype() -> None:
    network = folded()
    seen: list[torch.Tensor] = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    runtime_of(network, torch.bfloat16).run(list(np.zeros((2, 32, 32, 3), np.uint8)), 2, idle=True)
    for activation in seen:
        assert activation.dtype == torch.bfloat16
        assert activation.is_contiguous(memory_format=torch.channels_last)
    assert len(seen) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_computes_in_float32(dtype: torch.dtype) -> None:
    network = folded()
    seen: list[torch.Tensor] = []
    network.head.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    images = list(np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8))
    outputs = runtime_of(network, dtype).run(images, 2, idle=True, features=True)
    assert [tensor.dtype for tensor in seen] == [torch.float32, torch.float32]
    assert outputs.features is not None
    assert outputs.features.dtype == np.float32


def test_every_batch_size_is_compiled() -> None:
    """More sizes than torch's own limit, above which it would run the network eagerly."""
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        sizes.append(len(inputs[-1]))
        return graph.forward

    run = compiled_for_each_size(PreciseHead(folded(), CPU, torch.float32), backend)
    for size in range(1, 12):
        run(torch.zeros(size, 32, 32, 3, dtype=torch.uint8))
    assert len(sizes) == 11


def test_compiles_on_request_for_a_few_sizes() -> None:
    eager, compiled = runtime_of(folded()), runtime_of(folded(), compiled=True)
    assert (eager.mode, eager.batch_size_step) == ("eager", 1)
    assert (compiled.mode, compiled.batch_size_step) == ("compiled", 2)
