"""The folded network gives, from raw pixels, the logits that torchvision's network gives from normalised ones."""

import pytest
import torch
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import Transform, load_model
from model.checkpoints.key_maps import canonical_state_dict, detect_family
from model.convnext import Block, ChannelNorm, ConvNeXt, ConvNeXtConfig, config_for
from model.inference.fold import Normalise, fold
from tests.model.kinds import KINDS

TRANSFORM = Transform(224)
ODD = Transform(224, mean=(0.1, 0.5, 0.9), std=(0.5, 0.25, 1.0))


def largest_difference(folded, reference, transform, size=64):
    """Of the logits of two random images: pixels into one network, normalised pixels into the other."""
    pixels = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(2)).float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    with torch.inference_mode():
        expected = reference((pixels / 255 - mean) / std)
        assert expected.std() > 0.1
        return float((folded(pixels) - expected).abs().max())


@pytest.mark.parametrize(("name", "size"), [("tiny", 224), ("small", 64), ("base", 64), ("large", 32)])
def test_logits_are_torchvisions(randomise, name, size):
    with torch.device("meta"):
        reference = getattr(models, f"convnext_{name}")()
        network = ConvNeXt(config_for(name))
    tensors = randomise(reference).state_dict()
    network.load_state_dict(
        canonical_state_dict(tensors, detect_family(tensors, name), network.config, name), assign=True
    )
    assert largest_difference(fold(network, TRANSFORM), reference, TRANSFORM, size) < 1e-4


def test_every_transform_is_folded(tmp_path, randomise):
    blocks = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, None, 2)]
    reference = randomise(TorchvisionConvNeXt(blocks, num_classes=7))
    torch.save(reference.state_dict(), tmp_path / "network.pth")
    network = load_model(tmp_path / "network.pth").network
    assert largest_difference(fold(network, ODD), reference, ODD) < 1e-4
    assert largest_difference(fold(network, TRANSFORM), reference, ODD) > 0.01


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_network_keeps_its_logits(randomise, kind):
    network = randomise(ConvNeXt(ConvNeXtConfig((1, 2), (8, 16), num_classes=5, **kind)))
    assert largest_difference(fold(network, ODD), network, ODD) < 1e-4


def test_what_is_folded_is_gone(randomise):
    folded = fold(randomise(ConvNeXt(ConvNeXtConfig((1, 1), (8, 16), num_classes=5))), TRANSFORM)
    for name, module in folded.named_modules():
        if isinstance(module, ChannelNorm) and name.startswith("stem"):
            assert module.weight is not None  # what follows it splits into a residual
        elif isinstance(module, torch.nn.LayerNorm):
            assert module.weight is None
            assert module.bias is None
        assert not isinstance(module, Normalise)
        if isinstance(module, Block):
            assert module.gamma is None


def test_the_network_itself_is_left_as_it_was(randomise):
    network = randomise(ConvNeXt(ConvNeXtConfig((1, 1), (8, 16), num_classes=5)))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    folded = fold(network, TRANSFORM)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {one.dtype for one in folded.parameters()} == {torch.float32}
    assert not any(one.requires_grad for one in folded.parameters())
    assert not folded.training
