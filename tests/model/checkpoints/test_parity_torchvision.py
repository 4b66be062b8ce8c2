"""The same random tensors give torchvision's logits, from torchvision's own state dict."""

import pytest
import torch
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import load_model
from model.checkpoints.key_maps import infer_config, own_tensors, recognise
from model.convnext import ConvNeXt, config_for

TOLERANCE = 1e-4


def test_tiny_through_its_file_at_full_size(tmp_path, randomise, largest_difference):
    with torch.device("meta"):
        reference = models.convnext_tiny()
    randomise(reference)
    torch.save(reference.state_dict(), tmp_path / "tiny.pth")
    model = load_model(tmp_path / "tiny.pth")
    assert model.family == "torchvision"
    assert model.config == config_for("tiny")
    assert largest_difference(model.network, reference, 224) < TOLERANCE


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_larger_sizes(size, randomise, largest_difference):
    with torch.device("meta"):
        reference = getattr(models, f"convnext_{size}")()
    tensors = randomise(reference).state_dict()
    family = recognise(tensors, size)
    config = infer_config(tensors, family, size)
    assert config == config_for(size)
    with torch.device("meta"):
        network = ConvNeXt(config)
    network.load_state_dict(own_tensors(tensors, family, config, size), assign=True)
    assert largest_difference(network.eval(), reference) < TOLERANCE


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("features.1.0.block.3.bias", "features.1.1.block.3.bias"),
        ("features.1.0.layer_scale", "features.1.1.layer_scale"),
        ("features.5.0.block.2.weight", "features.5.0.block.2.bias"),
        ("classifier.0.weight", "classifier.0.bias"),
    ],
)
def test_two_swapped_tensors_would_show(tmp_path, one, other, randomise, largest_difference):
    reference = randomise(
        TorchvisionConvNeXt([CNBlockConfig(16, 32, 2), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)])
    )
    tensors = reference.state_dict()
    tensors[one], tensors[other] = tensors[other].clone(), tensors[one].clone()
    torch.save(tensors, tmp_path / "swapped.pth")
    assert largest_difference(load_model(tmp_path / "swapped.pth").network, reference) > 10 * TOLERANCE
