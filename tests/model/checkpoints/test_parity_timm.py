"""timm's networks with random weights, saved in timm's ways, give the same logits and pixels here."""

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.models.convnext import ConvNeXt as TimmConvNeXt

from model import load_model
from model.checkpoints.key_maps import FAMILIES, infer_config
from model.convnext import ConvNeXtConfig
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.pixels import assert_close_to_pillow

TOLERANCE = 1e-4
SMALL = {"depths": (1, 2, 1, 1), "dims": (16, 24, 40, 64), "num_classes": 7}
VARIANTS = {
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_through_a_bare_file(tmp_path, variant, randomise, largest_difference):
    reference = randomise(TimmConvNeXt(**SMALL, **VARIANTS[variant]))
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
def test_published_variants_through_a_folder(tmp_path, name, randomise, largest_difference):
    with torch.device("meta"):
        reference = timm.create_model(name, num_classes=3, device="meta")
    randomise(reference)
    save_for_hf(reference, tmp_path / name, {"label_names": ["a", "b", "c"]}, safe_serialization=True)
    model = load_model(tmp_path / name)
    assert (model.name, model.labels) == (name, ("a", "b", "c"))
    assert model.licence == ("cc-by-nc-4.0" if "v2" in name else "apache-2.0")
    assert model.notes == ()
    assert largest_difference(model.network, reference) < TOLERANCE


def test_another_eps_comes_from_the_folder(tmp_path, randomise, quieten, largest_difference):
    reference = quieten(randomise(timm.create_model("convnext_atto", num_classes=3, norm_eps=1e-5)))
    save_for_hf(reference, tmp_path / "eps")
    (tmp_path / "bare.bin").write_bytes((tmp_path / "eps" / "pytorch_model.bin").read_bytes())
    assert largest_difference(load_model(tmp_path / "eps").network, reference) < TOLERANCE
    assert largest_difference(load_model(tmp_path / "bare.bin").network, reference) > 10 * TOLERANCE


def test_the_file_of_a_folder_is_enough_to_name_it(tmp_path, randomise):
    reference = randomise(timm.create_model("convnext_atto", num_classes=3))
    save_for_hf(reference, tmp_path / "mine", {"label_names": ["a", "b", "c"]})
    assert load_model(tmp_path / "mine" / "pytorch_model.bin").labels == ("a", "b", "c")


def test_xxlarge_is_known_by_its_shape():
    with torch.device("meta"):
        tensors = timm.create_model("convnext_xxlarge", num_classes=2, device="meta").state_dict()
    config = infer_config(tensors, FAMILIES[-1], "xxlarge")
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
def test_pixels_are_those_of_timms_transform(tmp_path, texture, changes):
    reference = timm.create_model("convnext_atto", num_classes=3, pretrained_cfg_overlay=changes)
    save_for_hf(reference, tmp_path / "mine")
    expected = create_transform(**resolve_data_config({}, model=reference))(texture)
    transform = load_model(tmp_path / "mine").transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ({"crop_mode": "border"}, {}, "crop_mode='border' with crop_pct=0.875 is not implemented"),
        ({"crop_mode": "squash"}, {}, "crop_mode='squash' with crop_pct=0.875 is not implemented"),
        ({"interpolation": "lanczos"}, {}, "interpolation='lanczos' is not implemented"),
        ({"input_size": (3, 224, 192)}, {}, "192×224 are not square"),
        ({}, {"act_layer": "silu"}, "act_layer='silu' is not implemented; 'gelu' is"),
        ({}, {"kernel_sizes": 5}, "kernel_sizes=5 is not implemented"),
        ({}, {"global_pool": "max"}, "global_pool='max' is not implemented"),
        ({}, {"output_stride": 16}, "output_stride=16 is not implemented"),
    ],
)
def test_what_would_be_done_differently_is_refused(tmp_path, data, arguments, message):
    reference = timm.create_model("convnext_atto", num_classes=3, pretrained_cfg_overlay=data, **arguments)
    save_for_hf(reference, tmp_path / "mine")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "mine")


def test_rms_norms_are_refused(tmp_path):
    torch.save(timm.create_model("convnext_zepto_rms", num_classes=3).state_dict(), tmp_path / "rms.pth")
    with pytest.raises(CheckpointMismatch, match=r"missing: stem\.1\.bias"):
        load_model(tmp_path / "rms.pth")


def test_labels_may_be_described(tmp_path):
    names, descriptions = ["n01", "n02"], {"n01": "tench", "n02": "goldfish"}
    reference = timm.create_model("convnext_atto", num_classes=2)
    save_for_hf(reference, tmp_path / "mine", {"label_names": names, "label_descriptions": descriptions})
    assert load_model(tmp_path / "mine").labels == ("tench", "goldfish")


def test_a_photo_of_one_colour_keeps_it(tmp_path):
    """A guard for the pixel tests: a transform that forgot the normalisation would pass between two forgetful ones."""
    save_for_hf(timm.create_model("convnext_atto", num_classes=2), tmp_path / "mine")
    red = load_model(tmp_path / "mine").transform(Image.new("RGB", (300, 300), (255, 0, 0)))
    assert red[:, 0, 0].tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
