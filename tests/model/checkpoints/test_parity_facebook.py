"""Loads checkpoints with the authors' keys and compares the logits with timm's, which has its own converter."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.convnext import checkpoint_filter_fn
from torch import Tensor, nn

from model import Transform, load_model
from tests.model.conftest import largest_difference, randomize

SMALL: dict[str, Any] = {"depths": (1, 2, 1, 1), "dims": (16, 24, 40, 64), "num_classes": 7}  # Any: arguments
VERSIONS: dict[str, dict[str, Any]] = {"V1": {}, "V2": {"use_grn": True, "ls_init_value": None}}  # Any: arguments
AUTHORS_KEYS = (
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


def with_authors_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the keys of a timm state dict to those of the authors' checkpoints."""
    renamed = {}
    for key, tensor in tensors.items():
        for pattern, replacement in AUTHORS_KEYS:
            key = re.sub(pattern, replacement, key)
        renamed[key] = tensor.reshape(1, 1, 1, -1) if ".grn." in key else tensor
    return renamed


@pytest.fixture(params=VERSIONS)
def reference(request: pytest.FixtureRequest) -> nn.Module:
    return randomize(TimmConvNeXt(**SMALL, **VERSIONS[request.param]))


@pytest.fixture
def authors(reference: nn.Module) -> dict[str, Tensor]:
    tensors = with_authors_keys(reference.state_dict())
    converted = checkpoint_filter_fn({"model": tensors}, reference)  # type: ignore[no-untyped-call]  # timm is untyped
    torch.testing.assert_close(converted, dict(reference.state_dict()))
    return tensors


@pytest.mark.parametrize("wrapper", [None, "model", "model_ema", "state_dict"])
def test_logits_match(tmp_path: Path, reference: nn.Module, authors: dict[str, Tensor], wrapper: str | None) -> None:
    torch.save(authors if wrapper is None else {wrapper: authors}, tmp_path / "a.pth")
    model = load_model(tmp_path / "a.pth")
    assert (model.family, model.transform) == ("facebookresearch", Transform(256, 224, "bicubic"))
    assert largest_difference(model.network, reference) < 1e-4


def test_loads_the_weights_that_the_authors_evaluate(
    tmp_path: Path, reference: nn.Module, authors: dict[str, Tensor]
) -> None:
    """Their ``--eval`` takes ``model``, and not ``model_ema``."""
    zeros = {key: torch.zeros_like(tensor) for key, tensor in authors.items()}
    training = {"model": authors, "model_ema": zeros, "epoch": 299, "args": argparse.Namespace(lr=4e-3)}
    torch.save(training, tmp_path / "checkpoint-best.pth")
    model = load_model(tmp_path / "checkpoint-best.pth")
    assert "model_ema" in model.notes[0]
    assert largest_difference(model.network, reference) < 1e-4
    averaged = load_model(tmp_path / "checkpoint-best.pth", ema="on")
    assert float(averaged.network.head.fc.weight.abs().max()) == 0
