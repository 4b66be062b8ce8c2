import copy

import pytest
import torch
from torch import nn

from model.convnext import Block
from training.depthwise import FastDepthwise, use_fast_depthwise
from training.recipe import Recipe
from training.trainer import build_network


@pytest.mark.parametrize("size", [(1, 3), (4, 4), (9, 11), (16, 16)])
def test_output_and_gradients_match_the_plain_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(6, 6, 7, padding=3, groups=6)
    fast = FastDepthwise(6, 6, 7, padding=3, groups=6)
    fast.load_state_dict(plain.state_dict())
    x = torch.randn(16, 6, *size).contiguous(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    expected, actual = plain(inputs[0]), fast(inputs[1])
    grad = torch.randn_like(expected)
    expected.backward(grad)
    actual.backward(grad)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for ours, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert (ours.grad - theirs.grad).norm() < 0.01 * theirs.grad.norm()  # bfloat16 products


def test_use_fast_depthwise_replaces_the_convolution_of_every_block(recipe: Recipe) -> None:
    network = build_network(recipe)
    fast = copy.deepcopy(network)
    use_fast_depthwise(fast)
    blocks = [module for module in fast.modules() if isinstance(module, Block)]
    assert len(blocks) == 3
    assert all(isinstance(block.conv_dw, FastDepthwise) for block in blocks)
    image = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(fast(image), network(image))
