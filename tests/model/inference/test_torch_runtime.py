"""The PyTorch runtime returns the logits of the folded network, and compiles it only on request."""

from typing import Any

import numpy as np
import pytest
import torch

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.fold import fold
from model.inference.torch_runtime import TorchRuntime
from tests.model.conftest import randomize

CPU = torch.device("cpu")


def folded() -> ConvNeXt:
    network = randomize(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5)))
    return fold(network, Transform(32, 32))


def runtime_of(network: ConvNeXt, dtype: torch.dtype = torch.float32, *, compiled: bool = False) -> TorchRuntime:
    return TorchRuntime(network, CPU, dtype, compiled=compiled, threads=1)


def test_logits_equal_those_of_the_network() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = folded()(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    assert expected.std() > 0.01
    found = runtime_of(folded()).run(images, idle=True).logits
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_activations_are_channels_last_in_the_requested_dtype() -> None:
    network = folded()
    seen: list[torch.Tensor] = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
    runtime_of(network, torch.bfloat16).run(np.zeros((2, 32, 32, 3), np.uint8), idle=True)
    for activation in seen:
        assert activation.dtype == torch.bfloat16
        assert activation.is_contiguous(memory_format=torch.channels_last)
    assert len(seen) == 2


def test_compiles_on_request_for_fixed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []  # Any: torch.compile's options
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: calls.append(options))
    eager = runtime_of(folded())
    assert (eager.mode, eager.batch_size_step, calls) == ("eager", 1, [])
    compiled = runtime_of(folded(), compiled=True)
    assert (compiled.mode, compiled.batch_size_step, calls) == ("compiled", 2, [{"dynamic": False}])
