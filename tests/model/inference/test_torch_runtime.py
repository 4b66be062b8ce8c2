"""PyTorch's runtime: pixels in, the folded network's logits out, compiled only where asked."""

import numpy as np
import torch

from model import Transform
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.inference.fold import fold
from model.inference.torch_runtime import TorchRuntime


def folded(randomise) -> ConvNeXt:
    return fold(randomise(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5))), Transform(32, 32))


def test_logits_are_the_networks(randomise):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        expected = folded(randomise)(torch.from_numpy(images).permute(0, 3, 1, 2).float())
        found = TorchRuntime(folded(randomise), torch.device("cpu"), torch.float32, compiled=False).logits(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_activations_lie_channels_last_in_the_dtype_that_was_asked_for(randomise):
    network = folded(randomise)
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with torch.inference_mode():
        TorchRuntime(network, torch.device("cpu"), torch.bfloat16, compiled=False).logits(images)
    [(pixels, features)] = seen
    assert pixels.dtype == features.dtype == torch.bfloat16
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_compiling_is_asked_of_pytorch_for_fixed_sizes(randomise, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: asked.append(options))
    eager = TorchRuntime(folded(randomise), torch.device("cpu"), torch.float32, compiled=False)
    assert (eager.mode, eager.growth, asked) == ("eager", 1, [])
    compiled = TorchRuntime(folded(randomise), torch.device("cpu"), torch.float32, compiled=True)
    assert (compiled.mode, compiled.growth, asked) == ("compiled", 2, [{"dynamic": False}])
