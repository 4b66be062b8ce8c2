"""Loads checkpoints saved by timm with random parameters and compares logits and pixels with timm's."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.models import save_for_hf
from timm.models._hub import load_model_config_from_path
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from torch import nn

from model import load_model
from model.checkpoints.families import detect_family, infer_config
from model.convnext import ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.conftest import attenuate, largest_difference, randomize
from tests.model.images.pixels import assert_close_to_pillow

TOLERANCE = 1e-4
Arguments = dict[str, Any]  # Any: arguments of different types
SMALL: Arguments = {"depths": (1, 2, 1, 1), "dims": (16, 24, 40, 64), "num_classes": 7}
VARIANTS: dict[str, Arguments] = {
    "V1": {},
    "V2": {"use_grn": True, "ls_init_value": None},
    "conv_mlp": {"conv_mlp": True},
    "V2 conv_mlp": {"use_grn": True, "ls_init_value": None, "conv_mlp": True},
    "overlap": {"stem_type": "overlap"},
    "overlap_tiered": {"stem_type": "overlap_tiered", "conv_mlp": True},
    "overlap_act": {"stem_type": "overlap_act"},
    "norm_pre": {"head_norm_first": True},
    "no LayerScale": {"ls_init_value": None},
    "GRN and LayerScale": {"use_grn": True},
}


def atto(**arguments: Any) -> nn.Module:  # Any: arguments of different types
    return timm.create_model("convnext_atto", **{"num_classes": 3} | arguments)


def save(network: nn.Module, folder: Path, config: Arguments | None = None) -> None:
    save_for_hf(network, str(folder), config, safe_serialization="both")


@pytest.mark.parametrize("variant", VARIANTS)
def test_loads_every_variant_from_a_file(tmp_path: Path, variant: str) -> None:
    reference = randomize(TimmConvNeXt(**SMALL, **VARIANTS[variant]))
    save_file(reference.state_dict(), tmp_path / "bare.safetensors")
    model = load_model(tmp_path / "bare.safetensors")
    assert (model.family, model.config.widths) == ("timm", SMALL["dims"])
    assert largest_difference(model.network, reference) < TOLERANCE


@pytest.mark.parametrize(
    "name",
    [
        *("convnext_atto", "convnext_atto_ols", "convnext_pico", "convnext_nano_ols", "convnext_tiny_hnf"),
        *("convnextv2_atto", "convnextv2_femto", "convnextv2_nano", "convnextv2_tiny"),
    ],
)
def test_loads_published_architectures_from_a_folder(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=3, device="meta")
    reference = randomize(reference)
    save(reference, tmp_path / name, {"label_names": ["a", "b", "c"]})
    model = load_model(tmp_path / name)
    assert (model.name, model.labels) == (name, ("a", "b", "c"))
    assert model.licence == ("cc-by-nc-4.0" if "v2" in name else "apache-2.0")
    assert model.notes == ()
    assert largest_difference(model.network, reference) < TOLERANCE


def test_reads_eps_from_the_folder(tmp_path: Path) -> None:
    reference = attenuate(randomize(atto(norm_eps=1e-5)))
    save(reference, tmp_path / "eps")
    (tmp_path / "bare.bin").write_bytes((tmp_path / "eps" / "pytorch_model.bin").read_bytes())
    assert largest_difference(load_model(tmp_path / "eps").network, reference) < TOLERANCE
    assert largest_difference(load_model(tmp_path / "bare.bin").network, reference) > 10 * TOLERANCE


def test_the_path_of_the_file_in_a_folder_loads_the_folder(tmp_path: Path) -> None:
    save(randomize(atto()), tmp_path / "mine", {"label_names": ["a", "b", "c"]})
    assert load_model(tmp_path / "mine" / "pytorch_model.bin").labels == ("a", "b", "c")


def test_recognizes_the_eps_of_xxlarge_by_its_shapes() -> None:
    with torch.device("meta"):
        tensors = timm.create_model("convnext_xxlarge", num_classes=2, device="meta").state_dict()
    config = infer_config(tensors, detect_family(tensors, "xxlarge"), "xxlarge")
    assert config == ConvNeXtConfig((3, 4, 30, 3), (384, 768, 1536, 3072), 2, norm_eps=1e-5, head_norm_eps=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"interpolation": "bicubic", "crop_pct": 0.875},
        {"interpolation": "bicubic", "crop_pct": 0.95, "mean": (0.481, 0.457, 0.408), "std": (0.268, 0.261, 0.275)},
        {"interpolation": "bilinear", "crop_pct": 0.9},
        {"interpolation": "bicubic", "crop_pct": 1.0, "input_size": (3, 256, 256)},
        {"interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash", "input_size": (3, 96, 96)},
    ],
)
def test_pixels_match(tmp_path: Path, texture: Image.Image, changes: Mapping[str, object]) -> None:
    reference = atto(pretrained_cfg_overlay=changes)
    save(reference, tmp_path / "mine")
    data_config = resolve_data_config({}, model=reference)  # type: ignore[no-untyped-call]  # timm is untyped
    expected = create_transform(**data_config)(texture)
    transform = load_model(tmp_path / "mine").transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize(
    ("data", "arguments", "value"),
    [
        ({"crop_mode": "border"}, {}, "crop_mode='border' with crop_pct=0.875"),
        ({"crop_mode": "squash"}, {}, "crop_mode='squash' with crop_pct=0.875"),
        ({"interpolation": "lanczos"}, {}, "interpolation='lanczos'"),
        ({"input_size": (3, 224, 192)}, {}, "192×224"),
        ({}, {"act_layer": "silu"}, "act_layer='silu'.*'gelu'"),
        ({}, {"kernel_sizes": 5}, "kernel_sizes=5"),
        ({}, {"global_pool": "max"}, "global_pool='max'"),
        ({}, {"output_stride": 16}, "output_stride=16"),
    ],
)
def test_rejects_unsupported_settings(
    tmp_path: Path, data: Mapping[str, object], arguments: Mapping[str, object], value: str
) -> None:
    save(atto(pretrained_cfg_overlay=data, **arguments), tmp_path / "mine")
    with pytest.raises(CheckpointError, match=value):
        load_model(tmp_path / "mine")


def test_rejects_rms_norms(tmp_path: Path) -> None:
    torch.save(timm.create_model("convnext_zepto_rms", num_classes=3).state_dict(), tmp_path / "rms.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing key: stem\.1\.bias"):
        load_model(tmp_path / "rms.pth")


def test_reads_label_descriptions(tmp_path: Path) -> None:
    labels = {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "tench", "n02": "goldfish"}}
    save(atto(num_classes=2), tmp_path / "mine", labels)
    assert load_model(tmp_path / "mine").labels == ("tench", "goldfish")


def test_reads_the_labels_of_old_files(tmp_path: Path) -> None:
    """timm's own reader of them is the reference."""
    save(atto(), tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "config.json").read_text())
    flat = config.pop("pretrained_cfg") | {"architecture": config["architecture"], "labels": ["a", "b", "c"]}
    (tmp_path / "mine" / "config.json").write_text(json.dumps(flat))
    expected = load_model_config_from_path(str(tmp_path / "mine"))[0]["label_names"]
    assert load_model(tmp_path / "mine").labels == tuple(expected)
