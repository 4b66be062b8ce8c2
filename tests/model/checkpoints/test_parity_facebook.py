"""The authors' checkpoints: names written out here, proved by timm's own converter, give timm's logits."""

import argparse
import re

import pytest
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.convnext import checkpoint_filter_fn

from model import Transform, load_model

SMALL = {"depths": (1, 2, 1, 1), "dims": (16, 24, 40, 64), "num_classes": 7}
VERSIONS = {1: {}, 2: {"use_grn": True, "ls_init_value": None}}
AUTHORS_NAMES = (
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"\.blocks\.", "."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"\.mlp\.grn\.weight", ".grn.gamma"),
    (r"\.mlp\.grn\.bias", ".grn.beta"),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
)


@pytest.fixture(params=VERSIONS, ids="V{}".format)
def reference(request, randomise):
    return randomise(TimmConvNeXt(**SMALL, **VERSIONS[request.param]))


@pytest.fixture
def authors(reference):
    """The state dict that the authors' own network of the same weights has."""
    tensors = {}
    for name, tensor in reference.state_dict().items():
        for pattern, replacement in AUTHORS_NAMES:
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor.reshape(1, 1, 1, -1) if ".grn." in name else tensor
    converted = checkpoint_filter_fn({"model": tensors}, reference)
    torch.testing.assert_close(converted, dict(reference.state_dict()))
    return tensors


@pytest.mark.parametrize("wrapper", [None, "model", "model_ema", "state_dict"])
def test_logits(tmp_path, reference, authors, wrapper, largest_difference):
    torch.save(authors if wrapper is None else {wrapper: authors}, tmp_path / "a.pth")
    model = load_model(tmp_path / "a.pth")
    assert (model.family, model.transform) == ("facebookresearch", Transform(256, 224, "bicubic"))
    assert largest_difference(model.network, reference) < 1e-4


def test_a_training_checkpoint_serves_its_averaged_weights(tmp_path, reference, authors, largest_difference):
    stale = {name: torch.zeros_like(tensor) for name, tensor in authors.items()}
    training = {"model": stale, "model_ema": authors, "epoch": 299, "args": argparse.Namespace(lr=4e-3)}
    torch.save(training, tmp_path / "checkpoint-best.pth")
    model = load_model(tmp_path / "checkpoint-best.pth")
    assert "averaged weights" in model.notes[0]
    assert largest_difference(model.network, reference) < 1e-4
