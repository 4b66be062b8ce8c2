"""A depthwise convolution that trains fast on a CPU.

Profiled on AMX cores, most of a training step is the weight gradient of the depthwise 7×7, which has no fast kernel
there (and an even slower one in bfloat16). Here it is a matrix product instead: for each channel, the products of
every input pixel with every output pixel (one batched matmul), of which each tap's gradient is a sum of diagonals.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

_DENSE_LIMIT = 64  # pixels of a map up to which picking the diagonals by one matmul beats a loop over the taps


@lru_cache(maxsize=16)
def _tap_of_pair(height: int, width: int, kernel: int) -> Tensor:
    """One-hot ``(H·W·H·W, kernel²) float32``: which tap joins an input pixel to an output pixel, if any does."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + kernel // 2  # (H·W, H·W): input row minus output row
    dx = x[:, None] - x[None, :] + kernel // 2
    joined = (dy >= 0) & (dy < kernel) & (dx >= 0) & (dx < kernel)
    taps = torch.arange(kernel * kernel)
    one_hot = ((dy * kernel + dx)[..., None] == taps) & joined[..., None]
    return one_hot.flatten(0, 1).float()


@torch.library.custom_op("training::depthwise_weight_grad", mutates_args=())  # opaque to torch.compile
def depthwise_weight_grad(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    """Gradient ``(C, 1, kernel, kernel) float32`` of a same-padded depthwise convolution's weight.

    ``x`` and ``grad`` are the convolution's input and its output's gradient, ``(N, C, H, W)``. The products are
    taken in bfloat16 and summed in float32, as autocast does in every other layer.
    """
    c, h, w = x.shape[1:]
    pairs = torch.bmm(_channels_first(x).transpose(1, 2), _channels_first(grad))  # (C, H·W, H·W)
    if h * w <= _DENSE_LIMIT:
        taps = pairs.view(c, -1).float() @ _tap_of_pair(h, w, kernel)
        return taps.view(c, 1, kernel, kernel)
    return _sum_diagonals(pairs.view(c, h, w, h, w), kernel)


def _channels_first(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` in channels-last memory to ``(C, N, H·W) bfloat16``, contiguous where that pays."""
    n, c, h, w = x.shape
    x = x.to(torch.bfloat16)
    if h * w <= _DENSE_LIMIT:
        return x.permute(1, 0, 2, 3).reshape(c, n, h * w)
    return x.permute(0, 2, 3, 1).reshape(-1, c).t().contiguous().view(c, n, h * w)


@depthwise_weight_grad.register_fake
def _(x: Tensor, grad: Tensor, kernel: int) -> Tensor:
    return x.new_empty(x.shape[1], 1, kernel, kernel)


def _sum_diagonals(pairs: Tensor, kernel: int) -> Tensor:
    reach = kernel // 2
    c, h, w = pairs.shape[:3]
    taps = torch.zeros(c, 1, kernel, kernel)
    for dy in range(-min(reach, h - 1), min(reach, h - 1) + 1):
        rows = pairs.diagonal(-dy, 1, 3)  # (C, W, W, rows)
        for dx in range(-min(reach, w - 1), min(reach, w - 1) + 1):
            taps[:, 0, dy + reach, dx + reach] = rows.diagonal(-dx, 1, 2).float().sum((1, 2))
    return taps


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:  # Any: autograd's own context
        ctx.save_for_backward(x, weight)
        return torch.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (grad,), (x, weight) = grads, ctx.saved_tensors
        channels, kernel = weight.shape[0], weight.shape[-1]
        reach = kernel // 2
        grad = grad.contiguous(memory_format=torch.channels_last)
        # The input's gradient is a depthwise convolution too, with the kernel turned by half a circle.
        grad_x = torch.conv2d(grad, weight.flip(2, 3), padding=reach, groups=channels)
        return grad_x, depthwise_weight_grad(x, grad, kernel), grad.sum((0, 2, 3))


class FastDepthwise(nn.Conv2d):
    """Same parameters and same values as the depthwise ``nn.Conv2d`` it replaces; computes in float32."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.bias is not None
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().contiguous(memory_format=torch.channels_last)
            out: Tensor = _Depthwise.apply(x, self.weight, self.bias)
        return out


def speed_up_depthwise(network: nn.Module) -> None:
    """Puts ``FastDepthwise`` in the place of every depthwise convolution of ``network``, keeping its parameters."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and child.groups == child.in_channels == child.out_channels:
                width, kernel = child.out_channels, child.kernel_size[0]
                fast = FastDepthwise(width, width, kernel, padding=kernel // 2, groups=width)
                fast.weight, fast.bias = child.weight, child.bias
                setattr(module, name, fast)
