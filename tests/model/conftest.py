"""Networks whose every tensor is random, so that any two of them swapped would show in the logits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

torch.set_num_threads(1)  # on shared cores a pool's threads wait for each other ten times longer than one computes

Randomise = Callable[[nn.Module], nn.Module]


def _randomise(network: nn.Module) -> nn.Module:
    """Draws once and hands out consecutive numbers, as drawing 200 million takes longer than all that is tested."""
    network = network.to_empty(device="cpu") if next(network.parameters()).is_meta else network
    drawn = torch.randn(1_000_003, generator=torch.Generator().manual_seed(0))
    cycle, start = drawn.repeat(12), 0
    for parameter in network.parameters():
        count = parameter.numel()
        numbers = cycle[start : start + count].view_as(parameter)
        is_matrix = count > max(parameter.shape)
        parameter.data = numbers * parameter[0].numel() ** -0.5 if is_matrix else 0.5 + 0.3 * numbers.sigmoid()
        start = (start + count) % len(drawn)
    return network.eval()


@pytest.fixture
def randomise() -> Randomise:
    """Fills a network, which may be on the meta device, with random numbers and puts it into eval mode."""
    return _randomise


@pytest.fixture
def largest_difference() -> Callable[[nn.Module, nn.Module, int], float]:
    """The largest absolute difference of two networks' logits on two random images."""

    def measure(network: nn.Module, reference: nn.Module, size: int = 64) -> float:
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            logits, expected = network(images), reference(images)
        expected = getattr(expected, "logits", expected)
        assert expected.std() > 0.1
        return float((logits - expected).abs().max())

    return measure


@pytest.fixture
def quieten() -> Callable[[nn.Module], nn.Module]:
    """Makes every feature map so faint that the eps of the norms after it decides what they give."""

    def scale(network: nn.Module) -> nn.Module:
        faint = ("stem", "downsampl", "embeddings.patch", "fc2", "pwconv2")
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if any(part in name for part in faint) and "norm" not in name:
                    parameter.mul_(1e-3)
        return network

    return scale


@pytest.fixture(params=[(301, 200), (200, 333), (500, 375), (224, 224)], ids=lambda size: f"{size[0]}x{size[1]}")
def texture(request: pytest.FixtureRequest) -> Image.Image:
    """Blurred noise: smooth like a photo, and in no place like another."""
    width, height = request.param
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
