"""What tensors do not tell is taken from the configuration, or rejected."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from transformers import ConvNextConfig, ConvNextForImageClassification

from model import load_model
from model.errors import CheckpointError
from tests.model.checkpoints import test_network_search
from tests.model.conftest import largest_difference, randomize


def timm_network(**options: Any) -> nn.Module:  # Any: arguments of different types
    return randomize(test_network_search.timm_network(**options))


@pytest.mark.parametrize("patch_size", [8, 16])
@pytest.mark.parametrize("stated", [True, False])
def test_rejects_patches_for_which_timm_dilates(tmp_path: Path, patch_size: int, stated: bool) -> None:
    torch.save(timm_network(patch_size=patch_size).state_dict(), tmp_path / "mine.pth")
    if stated:
        (tmp_path / "config.json").write_text(json.dumps({"model_args": {"patch_size": patch_size}}))
    with pytest.raises(CheckpointError, match=f"patch_size={patch_size}"):
        load_model(tmp_path if stated else tmp_path / "mine.pth")


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (2, 1, 0), (7, 2, 3)])
def test_rejects_an_edited_stem_whose_stride_is_unknown(tmp_path: Path, kernel: int, stride: int, padding: int) -> None:
    network = TorchvisionConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=3)
    network.features[0][0] = nn.Conv2d(3, 8, kernel, stride, padding)
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_model(tmp_path / "mine.pth")


def test_the_configuration_states_the_stride_of_a_stem(tmp_path: Path) -> None:
    reference = timm_network(patch_size=3)
    torch.save(reference.state_dict(), tmp_path / "mine.pth")
    with pytest.raises(CheckpointError, match="3×3"):
        load_model(tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text(json.dumps({"model_args": {"patch_size": 3}}))
    assert largest_difference(load_model(tmp_path).network, reference) < 1e-4


def test_the_patch_size_of_transformers_is_the_stride(tmp_path: Path) -> None:
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], patch_size=2)
    reference = randomize(ConvNextForImageClassification(config))
    reference.save_pretrained(tmp_path)
    assert largest_difference(load_model(tmp_path).network, reference) < 1e-4


def test_labels_of_transformers_may_be_numbers(tmp_path: Path) -> None:
    labels: Any = {0: 2, 1: 0, 2: 1}  # Any: transformers' types allow names only
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], id2label=labels)
    ConvNextForImageClassification(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).labels == ("2", "0", "1")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"mean": [123.675, 116.28, 103.53], "std": [58.4, 57.1, 57.4]}, "255"),
        ({"std": [58.4, 57.1, 57.4]}, "255"),
        ({"image_size": 96}, "input_size"),
        ({"input_size": [1, 96, 96]}, "1 channels"),
        ({"input_size": [4, 96, 96]}, "4 channels"),
        ({"tag": "clip_laion2b_augreg"}, "CLIP"),
    ],
)
def test_rejects_a_handwritten_configuration_that_would_be_misread(
    tmp_path: Path, data: dict[str, object], problem: str
) -> None:
    torch.save(timm_network().state_dict(), tmp_path / "mine.pth")
    for config in ({"pretrained_cfg": data}, data):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=problem):
            load_model(tmp_path)


def test_names_the_key_of_the_labels(tmp_path: Path) -> None:
    torch.save(timm_network().state_dict(), tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text(json.dumps({"classes": list("abcde")}))
    with pytest.raises(CheckpointError, match="label_names"):
        load_model(tmp_path)


def test_names_unknown_keys(tmp_path: Path) -> None:
    torch.save(timm_network().state_dict(), tmp_path / "mine.pth")
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": {"flip": True}}))
    assert any("flip" in note for note in load_model(tmp_path).notes)


def test_the_keys_of_every_published_configuration_are_known(tmp_path: Path) -> None:
    network = timm.create_model("convnext_atto.d2_in1k", num_classes=3)
    timm.models.save_for_hf(network, str(tmp_path), safe_serialization=True)
    assert not any("unknown" in note for note in load_model(tmp_path).notes)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("model_best.pth.tar", "last.pth.tar", "checkpoint-9.pth.tar"), "model_best.pth.tar"),
        (("last.ckpt",), "last.ckpt"),
        (("last.ckpt", "epoch=3-step=9.ckpt"), "last.ckpt"),
        (("pytorch_model.pt", "optimizer.pt", "rng_state.pth", "scheduler.pt"), "pytorch_model.pt"),
    ],
)
def test_a_folder_has_the_weights_that_are_in_it(tmp_path: Path, files: tuple[str, ...], expected: str) -> None:
    tensors = timm_network().state_dict()
    for name in files:
        torch.save({"state_dict": tensors}, tmp_path / name)
    assert load_model(tmp_path).path.name == expected


def test_the_output_folder_of_a_trainer_suggests_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-500"):
        load_model(tmp_path)
