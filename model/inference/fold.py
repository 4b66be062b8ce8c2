"""Folds normalization, the affine part of LayerNorm and LayerScale into the neighboring weights, once at load.

The result is algebraically exact and saves passes over the activations: x·g + b before a linear map W is W·diag(g)
and W·b + bias.
"""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from model.convnext import Block, ConvNeXt, Stage
from model.images.transform import Transform


def fold(network: ConvNeXt, transform: Transform) -> ConvNeXt:
    """Returns a copy of ``network`` that computes the same logits from pixels, float ``(N, 3, H, W)`` in 0…255.

    An overlapping stem pads with zeros, which are not the mean of the pixels, so its normalization is not folded but
    becomes a ``Normalize`` in front of the stem.
    """
    folded = copy.deepcopy(network).double().eval()  # float64, as weights are summed
    with torch.no_grad():
        _fold_input(folded, transform)
        for stage in folded.stages:
            _fold_stage(cast(Stage, stage))
        _fold_norm(folded.head.norm, folded.head.fc)
    return folded.float().requires_grad_(False)


class Normalize(nn.Module):
    """``(pixels - mean) / std`` with per-channel ``mean`` and ``std`` of 0…255."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.mean = nn.Buffer(mean.view(-1, 1, 1))
        self.std = nn.Buffer(std.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def _fold_input(network: ConvNeXt, transform: Transform) -> None:
    mean = 255 * torch.tensor(transform.mean, dtype=torch.float64)
    std = 255 * torch.tensor(transform.std, dtype=torch.float64)
    if network.config.stem != "patch":
        network.stem = nn.Sequential(Normalize(mean, std), *network.stem)
        return
    _fold_affine(1 / std, -mean / std, cast(nn.Conv2d, network.stem[0]))


def _fold_stage(stage: Stage) -> None:
    if isinstance(stage.downsample, nn.Sequential):
        norm, conv = stage.downsample
        _fold_norm(cast(nn.LayerNorm, norm), cast(nn.Conv2d, conv))
    for block in stage.blocks:
        _fold_block(cast(Block, block))


def _fold_block(block: Block) -> None:
    _fold_norm(block.norm, block.mlp.fc1)
    if block.gamma is not None:
        block.mlp.fc2.weight.mul_(block.gamma.view(-1, 1))
        block.mlp.fc2.bias.mul_(block.gamma)
        block.gamma = None


def _fold_norm(norm: nn.LayerNorm, linear: nn.Linear | nn.Conv2d) -> None:
    """Folds a LayerNorm's affine part into the next linear layer, also across a mean over positions."""
    _fold_affine(norm.weight, norm.bias, linear)
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)
    norm.elementwise_affine = False


def _fold_affine(scale: Tensor, shift: Tensor, linear: nn.Linear | nn.Conv2d) -> None:
    weight, bias = linear.weight, cast(Tensor, linear.bias)
    per_input = (1, -1, 1, 1)[: weight.ndim]
    bias.add_((weight * shift.view(per_input)).flatten(1).sum(1))
    weight.mul_(scale.view(per_input))
