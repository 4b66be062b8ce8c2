"""FusedConvNeXt: a folded network on channels-last rows, with fewer passes over the activations than modules."""

from collections.abc import Callable
from itertools import pairwise
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.convnext import Block, ConvNeXt, Stage
from model.inference.cuda.depthwise import DepthwiseNorm, DepthwiseWeights, supports
from model.inference.cuda.norm import NormLaunch, launch_norm, norm_weights

FastPath = Literal["patches", "depthwise", "gelu", "residual", "norms"]
"""
patches    the stem as one matrix product on rows of 48 pixels
depthwise  depthwise convolution, bias and LayerNorm in one kernel
gelu       bias and GELU in the epilogue of the first matrix product of a block (cuBLASLt; approximated by tanh)
residual   the second one adds to the residual stream in place; needs depthwise, which takes over the bias
norms      LayerNorms of stem and downsampling in a kernel of their own; the convolution after it as one matrix product
"""


def available_paths(network: ConvNeXt, input_size: int) -> list[FastPath]:
    """The paths that exist for ``network``."""
    config = network.config
    paths: list[FastPath] = ["gelu"]
    if all(supports(width) for width in config.widths):
        paths = ["depthwise", "gelu", "residual", "norms"]
    if config.stem == "patch" and input_size % config.patch_size == 0:
        paths.insert(0, "patches")
    return paths


class FusedConvNeXt:
    """Computes the folded ``network`` in ``dtype``, its head in float32, by the fast ``paths`` where given.

    The modules' own tensors are used where their layout fits, so ``network`` is in ``dtype`` and on the device already;
    ``exact`` is the same network in float32 on the host, of which new tensors are made.
    """

    def __init__(
        self,
        network: ConvNeXt,
        exact: ConvNeXt,
        dtype: torch.dtype,
        paths: frozenset[str],
        depthwise: DepthwiseNorm,
        norm: NormLaunch = launch_norm,
    ) -> None:
        self._network = network
        self._dtype = dtype
        device = network.head.fc.weight.device
        stem_norm = norm if "norms" in paths else None
        self._stem = _PatchStem(network, exact, dtype, stem_norm) if "patches" in paths else self._plain_stem
        self._stages = [
            _FusedStage(cast(Stage, stage), cast(Stage, exact_stage), device, dtype, paths, depthwise)
            for stage, exact_stage in zip(network.stages, exact.stages, strict=True)
        ]
        if "norms" in paths:
            for (previous, stage), exact_stage in zip(pairwise(self._stages), exact.stages[1:], strict=True):
                stage.merge_downsample(previous, cast(Stage, exact_stage), norm)

    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels ``(N, H, W, 3)`` uint8 to float32 logits ``(N, classes)`` and the feature map ``(N, K, H, W)``."""
        x = self._stem(pixels)
        for stage in self._stages:
            x = stage(x)
        return self._head(x), x.permute(0, 3, 1, 2)

    def visit_depthwise(self, pixels: Tensor, visit: Callable[[Tensor, DepthwiseWeights], None]) -> None:
        """Calls ``visit`` with an input ``(N, H, W, C)`` of the depthwise kernel for each stage, and its weights."""
        x = self._stem(pixels)
        for stage in self._stages:
            x = stage.downsample(x)
            visit(x, stage.depthwise_weights[0])

    def _plain_stem(self, pixels: Tensor) -> Tensor:
        x: Tensor = self._network.stem(pixels.permute(0, 3, 1, 2).to(self._dtype))
        return x.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)

    def _head(self, x: Tensor) -> Tensor:
        head = self._network.head
        if head.norm_before_pool:
            pooled = head.norm(x.float()).mean((1, 2))
        else:
            pooled = head.norm(x.mean((1, 2), dtype=torch.float32))
        logits: Tensor = head.fc(pooled)
        return logits


class _PatchStem:
    """The patchify convolution as a product of ``(N · patches, side · side · 3)`` pixels and the weights; LayerNorm."""

    def __init__(self, network: ConvNeXt, exact: ConvNeXt, dtype: torch.dtype, norm: NormLaunch | None) -> None:
        patchify, self._norm = cast(tuple[nn.Conv2d, nn.LayerNorm], tuple(network.stem))
        weight = cast(nn.Conv2d, exact.stem[0]).weight.permute(0, 2, 3, 1).flatten(1)  # (C, side · side · 3)
        self._weight = weight.to(patchify.weight.device, dtype)
        self._bias = patchify.bias
        self._side = network.config.patch_size
        self._dtype = dtype
        self._launch = norm
        self._norm_weights = norm_weights(self._norm, patchify.weight.device)

    def __call__(self, pixels: Tensor) -> Tensor:
        count, height, width, channels = pixels.shape
        side = self._side
        patches = pixels.view(count, height // side, side, width // side, side * channels).transpose(2, 3)
        rows = torch.empty(patches.shape, dtype=self._dtype, device=pixels.device).copy_(patches)
        x = F.linear(rows.view(-1, self._weight.shape[1]), self._weight, self._bias)  # (N · patches, C)
        x = x.view(*patches.shape[:3], x.shape[1])  # (N, H / side, W / side, C)
        if self._launch is None:
            return F.layer_norm(x, x.shape[3:], self._norm.weight, self._norm.bias, self._norm.eps)
        out = torch.empty_like(x)
        self._launch(x, self._norm_weights, 1, out)
        return out


class _PatchDownsample:
    """LayerNorm of ``x + add``, then the convolution of patches as one matrix product."""

    def __init__(self, downsample: nn.Sequential, exact: nn.Sequential, add: Tensor | None, norm: NormLaunch) -> None:
        layer_norm, conv = cast(tuple[nn.LayerNorm, nn.Conv2d], tuple(downsample))
        weight = cast(nn.Conv2d, exact[1]).weight.permute(0, 2, 3, 1).flatten(1)  # (K, side · side · C)
        self._weight = weight.to(conv.weight.device, conv.weight.dtype)
        self._bias = conv.bias
        self._side = conv.kernel_size[0]
        self._norm_weights = norm_weights(layer_norm, conv.weight.device, add)
        self._launch = norm

    def __call__(self, x: Tensor) -> Tensor:
        count, height, width, _ = x.shape
        height, width = height // self._side, width // self._side
        patches = x.new_empty((count * height * width, self._weight.shape[1]))
        self._launch(x, self._norm_weights, self._side, patches)
        return F.linear(patches, self._weight, self._bias).view(count, height, width, -1)


class _FusedStage:
    def __init__(
        self,
        stage: Stage,
        exact: Stage,
        device: torch.device,
        dtype: torch.dtype,
        paths: frozenset[str],
        depthwise: DepthwiseNorm,
    ) -> None:
        self._downsample = stage.downsample
        self._patches: _PatchDownsample | None = None
        self._blocks = [cast(Block, block) for block in stage.blocks]
        self._paths = paths
        self._depthwise = depthwise
        self.depthwise_weights: list[DepthwiseWeights] = []
        deferred = torch.zeros(self._blocks[0].norm.normalized_shape, dtype=torch.float64)  # (C,)
        for block in exact.blocks:
            exact_block = cast(Block, block)
            self.depthwise_weights.append(_depthwise_weights(exact_block, deferred, device, dtype))
            if "residual" in paths:
                deferred = deferred + exact_block.mlp.fc2.bias.double()
        self.deferred = deferred.to(device, dtype) if "residual" in paths else None

    def __call__(self, x: Tensor) -> Tensor:
        x = self.downsample(x)
        for block, weights in zip(self._blocks, self.depthwise_weights, strict=True):
            x = self._block(x, block, weights)
        return x if self.deferred is None else x.add_(self.deferred)

    def merge_downsample(self, previous: "_FusedStage", exact: Stage, norm: NormLaunch) -> None:
        """Normalizes by the kernel ``norm``, which also adds what the ``previous`` stage deferred."""
        modules = cast(tuple[nn.Sequential, nn.Sequential], (self._downsample, exact.downsample))
        self._patches = _PatchDownsample(*modules, previous.deferred, norm)
        previous.deferred = None

    def downsample(self, x: Tensor) -> Tensor:
        if self._patches is not None:
            return self._patches(x)
        x = self._downsample(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x.contiguous()  # (N, H, W, C); already is if the convolution keeps channels last

    def _block(self, x: Tensor, block: Block, weights: DepthwiseWeights) -> Tensor:
        if "depthwise" in self._paths:
            y = self._depthwise(x, weights)
        else:
            y = block.norm(block.conv_dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        hidden = linear_gelu(y, fc1.weight, fc1.bias) if "gelu" in self._paths else F.gelu(fc1(y))
        hidden = block.mlp.grn(hidden)
        if "residual" in self._paths:
            x.view(-1, x.shape[3]).addmm_(hidden.flatten(0, 2), fc2.weight.T)
            return x
        return x + cast(Tensor, fc2(hidden))


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``gelu(x @ weight.T + bias)`` of ``(..., C)``; on CUDA in one kernel.

    PyTorch has no public function for the epilogue. The operator's contract is tested.
    """
    epilogue = torch.ops.aten._addmm_activation  # noqa: SLF001 - see above
    rows = cast(Tensor, epilogue(bias, x.flatten(0, -2), weight.T, use_gelu=True))
    return rows.view((*x.shape[:-1], rows.shape[1]))


def _depthwise_weights(block: Block, deferred: Tensor, device: torch.device, dtype: torch.dtype) -> DepthwiseWeights:
    """Weights for an input that lacks the bias ``deferred`` ``(C,)``, which previous blocks did not add.

    Inside the image, the missing bias adds ``deferred`` times the sum of the weights to the result. Outside, where the
    input with the bias is zero, the one without it is ``-deferred``.
    """
    weight = block.conv_dw.weight[:, 0].double()  # (C, 7, 7)
    bias = cast(Tensor, block.conv_dw.bias).double() + deferred * weight.sum((1, 2))
    return DepthwiseWeights(
        weight.permute(1, 2, 0).contiguous().to(device, torch.float32),
        bias.to(device, torch.float32),
        (-deferred).to(device, dtype),
        block.norm.eps,
    )
