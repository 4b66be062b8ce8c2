"""Loads torchvision's state dicts with random parameters and compares the logits with torchvision's."""

from pathlib import Path

import pytest
import torch
from torchvision import models
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from model import load_model
from model.checkpoints.families import canonical_state_dict, detect_family, infer_config
from model.convnext import ConvNeXt, config_for
from tests.model.conftest import largest_difference, randomize

TOLERANCE = 1e-4


def test_loads_tiny_from_a_file(tmp_path: Path) -> None:
    with torch.device("meta"):
        reference = models.convnext_tiny()
    reference = randomize(reference)
    torch.save(reference.state_dict(), tmp_path / "tiny.pth")
    model = load_model(tmp_path / "tiny.pth")
    assert model.family == "torchvision"
    assert model.config == config_for("tiny")
    assert largest_difference(model.network, reference, 224) < TOLERANCE


@pytest.mark.parametrize("size", ["small", "base", "large"])
def test_converts_larger_sizes(size: str) -> None:
    with torch.device("meta"):
        reference = getattr(models, f"convnext_{size}")()
    reference = randomize(reference)
    tensors = reference.state_dict()
    family = detect_family(tensors, size)
    config = infer_config(tensors, family, size)
    assert config == config_for(size)
    with torch.device("meta"):
        network = ConvNeXt(config)
    network.load_state_dict(canonical_state_dict(tensors, family, config, size), assign=True)
    assert largest_difference(network.eval(), reference) < TOLERANCE


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("features.1.0.block.3.bias", "features.1.1.block.3.bias"),
        ("features.1.0.layer_scale", "features.1.1.layer_scale"),
        ("features.5.0.block.2.weight", "features.5.0.block.2.bias"),
        ("classifier.0.weight", "classifier.0.bias"),
    ],
)
def test_exchanged_tensors_change_the_logits(tmp_path: Path, first: str, second: str) -> None:
    blocks = [CNBlockConfig(16, 32, 2), CNBlockConfig(32, 64, 2), CNBlockConfig(64, None, 1)]
    reference = randomize(TorchvisionConvNeXt(blocks))
    tensors = reference.state_dict()
    tensors[first], tensors[second] = tensors[second].clone(), tensors[first].clone()
    torch.save(tensors, tmp_path / "exchanged.pth")
    assert largest_difference(load_model(tmp_path / "exchanged.pth").network, reference) > 10 * TOLERANCE
