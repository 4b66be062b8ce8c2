import copy

import pytest
import torch
from torch import nn

from training.depthwise import FastDepthwise, speed_up_depthwise


@pytest.mark.parametrize("size", [(1, 3), (4, 4), (9, 11), (16, 16)])  # both ways of picking the diagonals
def test_values_and_gradients_are_those_of_the_plain_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(6, 6, 7, padding=3, groups=6))
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    assert isinstance(fast[0], FastDepthwise)
    x = torch.randn(16, 6, *size).contiguous(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    outputs = [network(each) for network, each in zip((plain, fast), inputs, strict=True)]
    towards = torch.randn_like(outputs[0])
    for out in outputs:
        out.backward(towards)
    assert torch.equal(*outputs)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()  # bfloat16 products


def test_other_convolutions_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 2, stride=2), nn.Conv2d(8, 8, 3, groups=2))
    before = list(network)
    speed_up_depthwise(network)
    assert list(network) == before
