"""The folded network computes, from pixels, the logits that the original computes from normalized images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import Transform, load_model
from model.checkpoints.families import canonical_state_dict, detect_family
from model.convnext import Block, ChannelNorm, ConvNeXt, ConvNeXtConfig, config_for
from model.inference.fold import Normalize, fold
from tests.model.conftest import randomize
from tests.model.kinds import KINDS

IMAGENET = Transform(224)
UNUSUAL = Transform(224, mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 1.0))


def small_network(**kind: Any) -> ConvNeXt:  # Any: fields of the configuration
    return randomize(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5, **kind)))


def largest_difference(folded: ConvNeXt, reference: nn.Module, transform: Transform, size: int = 64) -> float:
    """Returns the largest difference of logits: pixels into ``folded``, normalized images into ``reference``."""
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(2)).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    with torch.inference_mode():
        expected = reference((pixels / 255 - mean) / std)
        assert expected.std() > 0.1
        return float((folded(pixels) - expected).abs().max())


@pytest.mark.parametrize(("name", "size"), [("tiny", 224), ("small", 32), ("base", 32)])
def test_logits_equal_those_of_torchvision(name: str, size: int) -> None:
    with torch.device("meta"):
        reference: nn.Module = models.get_model(f"convnext_{name}")
        network = ConvNeXt(config_for(name))
    tensors = randomize(reference).state_dict()
    network.load_state_dict(
        canonical_state_dict(tensors, detect_family(tensors, name), network.config, name), assign=True
    )
    assert largest_difference(fold(network, IMAGENET), reference, IMAGENET, size) < 1e-4


def test_the_mean_and_std_of_the_transform_are_folded(tmp_path: Path) -> None:
    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)]
    reference = randomize(TorchvisionConvNeXt(blocks, num_classes=7))
    torch.save(reference.state_dict(), tmp_path / "network.pth")
    network = load_model(tmp_path / "network.pth").network
    assert largest_difference(fold(network, UNUSUAL), reference, UNUSUAL) < 1e-4
    assert largest_difference(fold(network, IMAGENET), reference, UNUSUAL) > 0.01


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_logits_are_the_same_for_every_kind_of_network(kind: dict[str, Any]) -> None:  # Any: as in KINDS
    network = small_network(**kind)
    assert largest_difference(fold(network, UNUSUAL), network, UNUSUAL) < 1e-4


def test_folded_layers_are_removed() -> None:
    folded = fold(small_network(), IMAGENET)
    for name, module in folded.named_modules():
        if isinstance(module, ChannelNorm) and name.startswith("stem"):
            assert module.weight is not None  # followed by a residual connection
        elif isinstance(module, nn.LayerNorm):
            assert module.weight is None
            assert module.bias is None
        assert not isinstance(module, Normalize)
        if isinstance(module, Block):
            assert module.gamma is None


def test_the_network_itself_is_not_changed() -> None:
    network = small_network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network, IMAGENET)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training
