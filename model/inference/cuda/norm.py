"""LayerNorm of rows that are written as patches, in one Triton kernel: what follows is a matrix product."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ELEMENTS = 4096  # of one program, on 4 warps


@dataclass(frozen=True)
class NormWeights:
    """``add``, ``weight`` and ``bias`` ``(C,)`` in float32; see ``NormLaunch``."""

    add: Tensor
    weight: Tensor
    bias: Tensor
    eps: float


NormLaunch = Callable[[Tensor, NormWeights, int, Tensor], None]
"""Computes ``layer_norm(x + add)`` of x ``(N, H, W, C)`` in patches ``(N · H/side · W/side, side · side · C)``.

Called with x, the weights, side and what it fills. Rows and columns that are no part of a patch are left out.
"""


def norm_weights(norm: nn.LayerNorm, device: torch.device, add: Tensor | None = None) -> NormWeights:
    """The weights of ``norm``, which may have no affine part."""
    shape = tuple(norm.normalized_shape)
    parts = ((add, 0.0), (norm.weight, 1.0), (norm.bias, 0.0))
    full = [torch.full(shape, value) if part is None else part for part, value in parts]
    offset, weight, bias = (part.detach().to(device, torch.float32).contiguous() for part in full)
    return NormWeights(offset, weight, bias, norm.eps)


def launch_norm(x: Tensor, weights: NormWeights, side: int, out: Tensor) -> None:
    """Launches the Triton kernel on the current stream. Raises ``ImportError`` without Triton."""
    from model.inference.cuda.kernels import patch_norm

    count, height, width, channels = x.shape
    rows = count * height * width
    options = _options(channels, side, weights.eps)
    tensors = (x, weights.add, weights.weight, weights.bias, out)
    patch_norm[(-(-rows // options["ROWS"]),)](*tensors, rows, height, width, **options)


def compile_norm(dtype: torch.dtype, channels: int, side: int, eps: float) -> None:
    """Compiles it for activations of ``dtype`` and the active device. Raises ``ImportError`` without Triton."""
    from model.inference.cuda.kernels import patch_norm

    tensors = (dtype, torch.float32, torch.float32, torch.float32, dtype)
    patch_norm.warmup(*tensors, 1, 1, 1, grid=(1,), **_options(channels, side, eps))


def _options(channels: int, side: int, eps: float) -> dict[str, Any]:  # Any: what Triton takes
    block = 1 << (channels - 1).bit_length()
    options = {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
    return options | {"C": channels, "BC": block, "ROWS": max(1, _ELEMENTS // block), "SIDE": side, "EPS": eps}
