"""Exact algebra done once at load: normalisation, LayerNorm affine and LayerScale move into neighbouring weights.

What is folded no longer costs a pass over the activations: x·g + b before a linear map W is W·diag(g) and W·b + bias.
"""

import copy

import torch
from torch import Tensor, nn

from model.convnext import Block, ConvNeXt, Head, Stage
from model.preprocess import Transform


def fold(network: ConvNeXt, transform: Transform) -> ConvNeXt:
    """A copy of ``network`` that takes raw pixels, float ``(N, 3, H, W)`` in 0…255, and gives the same logits.

    An overlapping stem pads with zeros, which in pixels are not the mean's colour, so there the normalisation stays
    outside as a ``Normalise`` in front of the stem; everything else is folded for every kind of network.
    """
    folded = copy.deepcopy(network).double().eval()  # sums of products, so in float64
    with torch.no_grad():
        _fold_input(folded, transform)
        for stage in folded.stages:
            _fold_stage(stage)
        _fold_head(folded.head)
    return folded.float().requires_grad_(False)


class Normalise(nn.Module):
    """``(pixels - mean) / std`` with per-channel ``mean`` and ``std`` of 0…255."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x - self.mean) / self.std
        return out


def _fold_input(network: ConvNeXt, transform: Transform) -> None:
    mean = 255 * torch.tensor(transform.mean, dtype=torch.float64)
    std = 255 * torch.tensor(transform.std, dtype=torch.float64)
    stem = network.stem
    if network.config.stem != "patch":
        network.stem = nn.Sequential(Normalise(mean, std), *stem)
        return
    patchify = stem[0]
    patchify.bias -= torch.einsum("oikl,i->o", patchify.weight, mean / std)
    patchify.weight /= std.view(1, -1, 1, 1)


def _fold_stage(stage: Stage) -> None:
    if isinstance(stage.downsample, nn.Sequential):
        norm, conv = stage.downsample
        conv.bias += torch.einsum("oikl,i->o", conv.weight, norm.bias)
        conv.weight *= norm.weight.view(1, -1, 1, 1)
        _strip(norm)
    for block in stage.blocks:
        _fold_block(block)


def _fold_block(block: Block) -> None:
    _fold_linear(block.norm, block.mlp.fc1)
    if block.gamma is not None:
        block.mlp.fc2.weight *= block.gamma.view(-1, 1)
        block.mlp.fc2.bias *= block.gamma
        block.gamma = None


def _fold_head(head: Head) -> None:
    _fold_linear(head.norm, head.fc)  # a mean over the map commutes with the affine, so either order of norm and pool


def _fold_linear(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    linear.bias += linear.weight @ norm.bias
    linear.weight *= norm.weight
    _strip(norm)


def _strip(norm: nn.LayerNorm) -> None:
    norm.register_parameter("weight", None)
    norm.register_parameter("bias", None)
    norm.elementwise_affine = False
