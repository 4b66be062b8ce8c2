"""A depthwise convolution with a fast weight gradient for CPUs that compute bfloat16 natively.

torch has no fast CPU kernel for this gradient. On an AMD EPYC with AVX-512 BF16, the forward and backward pass of the
embedded network (128 photos, bfloat16, one or two threads) is 1.3 times as fast with this module at 96 pixels and 1.2
times as fast at 128.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.convnext import Block


def depthwise_weight_grad(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """Returns the weight gradient ``(C, 1, kernel, kernel)`` float32 of a same-padded depthwise convolution.

    ``x`` is its input and ``grad`` the gradient of its output, ``(N, C, H, W)``. One matrix product per channel
    multiplies all pairs of pixels; the gradient of each weight is the sum of a diagonal. The products are bfloat16.
    """
    channels, height, width = x.shape[1:]
    padded = F.pad(x.to(torch.bfloat16), (kernel // 2,) * 4)
    padded_width = padded.shape[3]
    left = grad.to(torch.bfloat16).permute(2, 3, 0, 1).flatten(0, 1).permute(2, 0, 1).contiguous()  # (C, H·W, N)
    right = padded.permute(0, 2, 3, 1).flatten(1, 2).permute(2, 0, 1).contiguous()  # (C, N, padded H·W)
    pairs = torch.bmm(left, right)
    row = pairs.shape[2]
    diagonals = pairs.as_strided(
        (channels, 1, height, width, kernel, kernel),
        (height * width * row, 0, width * row + padded_width, row + 1, padded_width, 1),
    )
    return diagonals.sum((2, 3), dtype=torch.float32)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # Any: autograd's context has no type
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # Any: as above
        x, weight = ctx.saved_tensors
        channels, kernel = weight.shape[0], weight.shape[-1]
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = F.conv2d(grad, weight.flip(2, 3), padding=kernel // 2, groups=channels)
        return grad_x, depthwise_weight_grad(x, grad, kernel), grad.sum((0, 2, 3))


class FastDepthwise(nn.Conv2d):
    """A depthwise ``nn.Conv2d`` with same padding that computes in float32, except its weight gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().contiguous(memory_format=torch.channels_last)
            out: Tensor = _Depthwise.apply(x, self.weight, self.bias)
        return out


def use_fast_depthwise(network: nn.Module) -> None:
    """Replaces the depthwise convolution of every block by ``FastDepthwise`` with the same weights."""
    for block in network.modules():
        if isinstance(block, Block):
            plain = block.conv_dw
            width = plain.out_channels
            block.conv_dw = FastDepthwise(width, width, plain.kernel_size[0], padding="same", groups=width)
            block.conv_dw.load_state_dict(plain.state_dict())
