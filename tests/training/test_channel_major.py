from dataclasses import replace

import pytest
import torch
from torch import nn

from training.channel_major import ChannelMajor
from training.recipe import Recipe
from training.trainer import build_network


def gradients(forward: nn.Module, network: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    nn.functional.cross_entropy(forward(images), torch.arange(len(images)) % 4).backward()  # type: ignore[no-untyped-call]  # torch
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("layer_scale", [True, False])
@pytest.mark.parametrize("size", [(64, 64), (72, 104), (16, 16)])
def test_output_and_gradients_match_the_network(recipe: Recipe, size: tuple[int, int], layer_scale: bool) -> None:
    network = build_network(replace(recipe, network=replace(recipe.network, layer_scale=layer_scale))).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # no scale is one and no shift zero
    images = torch.randn(16, 3, *size)
    expected, actual = network(images), ChannelMajor(network)(images)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.02 * expected.norm()  # bfloat16
    reference, ours = gradients(network, network, images), gradients(ChannelMajor(network), network, images)
    assert reference.keys() == ours.keys() == dict(network.named_parameters()).keys()
    for name, gradient in reference.items():
        assert (ours[name] - gradient).norm() < 0.05 * gradient.norm(), name


def test_drops_the_branches_of_random_photos_in_training(recipe: Recipe) -> None:
    network = build_network(replace(recipe, network=replace(recipe.network, drop_path_rate=0.5))).train()
    images = torch.randn(1, 3, 64, 64).expand(64, 3, 64, 64)
    logits = ChannelMajor(network)(images)
    assert 1 < len(torch.unique(logits.detach(), dim=0)) <= 2 ** sum(recipe.network.depths)
