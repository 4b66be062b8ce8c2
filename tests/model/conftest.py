"""Networks with random parameters, and how much their logits differ: two exchanged parameters change the logits."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

torch.set_num_threads(1)  # the threads of a pool slow each other down on shared cores

Network = TypeVar("Network", bound=nn.Module)


def randomize(network: Network) -> Network:
    """Fills a network, also one on the meta device, with random numbers and switches it to eval mode.

    Parameters take consecutive numbers of one sequence, because drawing 200 million numbers is slow.
    """
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
def randomise() -> Callable[[nn.Module], nn.Module]:
    """``randomize``, for tests that take it as a fixture."""
    return randomize


def largest_difference(network: nn.Module, reference: nn.Module, size: int = 64) -> float:
    """Returns the largest absolute difference between the logits of two networks for two random images."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits, expected = network(images), reference(images)
    expected = getattr(expected, "logits", expected)
    assert expected.std() > 0.1
    return float((logits - expected).abs().max())


def attenuate(network: Network) -> Network:
    """Makes all feature maps so small that the eps of the LayerNorms changes the logits."""
    layers = ("stem", "downsampl", "embeddings.patch", "fc2", "pwconv2")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(layer in name for layer in layers) and "norm" not in name:
                parameter.mul_(1e-3)
    return network


@pytest.fixture(params=[(301, 200), (200, 333), (500, 375), (224, 224)], ids=lambda size: f"{size[0]}x{size[1]}")
def texture(request: pytest.FixtureRequest) -> Image.Image:
    """Blurred noise: smooth like a photo, and different everywhere."""
    width, height = request.param
    noise = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
