"""Loads checkpoints saved by transformers with random parameters and compares logits and pixels with transformers'."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedModel,
    ViTImageProcessor,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from model import load_model
from model.checkpoints.hf_folder import read_card
from model.errors import CheckpointError, CheckpointMismatch
from model.images.transform import IMAGENET_MEAN, IMAGENET_STD
from tests.model.conftest import attenuate, largest_difference, randomize
from tests.model.images.pixels import assert_close_to_pillow

TOLERANCE = 1e-4
CLASSES: dict[int, Any] = {  # Any: transformers is not fully typed
    1: (ConvNextConfig, ConvNextForImageClassification),
    2: (ConvNextV2Config, ConvNextV2ForImageClassification),
}
SMALL: dict[str, Any] = {  # Any: arguments of different types
    "depths": [1, 2, 1, 1],
    "hidden_sizes": [16, 24, 40, 64],
    "id2label": {0: "cat", 1: "dog", 2: "owl"},
}


def build(version: int = 1, **changes: object) -> PreTrainedModel:
    config, network = CLASSES[version]
    built: PreTrainedModel = network(config(**SMALL | changes))
    return built


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def update_json(path: Path, changes: Mapping[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("version", [1, 2])
def test_loads_a_folder(folder: Path, version: int) -> None:
    reference = randomize(build(version))
    reference.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(folder)
    model = load_model(folder)
    assert (model.family, model.labels, model.notes) == ("huggingface", ("cat", "dog", "owl"), ())
    assert (model.config.grn, model.config.layer_scale) == (version == 2, version == 1)
    assert largest_difference(model.network, reference) < TOLERANCE


@pytest.mark.parametrize("version", [1, 2])
def test_loads_a_file_without_a_folder(tmp_path: Path, version: int) -> None:
    reference = randomize(build(version))
    torch.save(reference.state_dict(), tmp_path / "bare.bin")
    assert largest_difference(load_model(tmp_path / "bare.bin").network, reference) < TOLERANCE


def test_loads_a_network_without_layer_scale(folder: Path) -> None:
    reference = randomize(build(layer_scale_init_value=0.0))
    reference.save_pretrained(folder)
    assert largest_difference(load_model(folder).network, reference) < TOLERANCE


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_reads_the_eps_of_the_final_norm(folder: Path, eps: float) -> None:
    reference = attenuate(randomize(build(layer_norm_eps=eps)))
    reference.save_pretrained(folder)
    model = load_model(folder)
    assert (model.config.norm_eps, model.config.head_norm_eps) == (1e-6, eps)
    assert largest_difference(model.network, reference) < TOLERANCE
    model.network.head.norm.eps = 1e-6
    assert largest_difference(model.network, reference) > 10 * TOLERANCE


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [64, 224, 384])
class TestPixels:
    @pytest.fixture
    def settings(self, side: int, resample: int) -> dict[str, Any]:  # Any: arguments of different types
        mean_and_std = {"image_mean": list(IMAGENET_MEAN), "image_std": list(IMAGENET_STD)}
        return {"size": {"shortest_edge": side}, "resample": resample} | mean_and_std

    def pixels(self, folder: Path, processor: Any, image: Image.Image) -> tuple[Tensor, Tensor]:  # Any: two classes
        """Returns the pixels of the saved transform and those of the processor."""
        build().save_pretrained(folder)
        processor.save_pretrained(folder)
        return load_model(folder).transform(image), processor(image, return_tensors="pt")["pixel_values"][0]

    def level_differences(self, folder: Path, processor: Any, image: Image.Image) -> Tensor:  # Any: two classes
        """Returns the absolute differences of the pixels in units of 1/255."""
        found, expected = self.pixels(folder, processor, image)
        return (found - expected).abs() * torch.tensor(processor.image_std).view(3, 1, 1) * 255

    def test_pixels_match_the_pillow_processor(
        self, folder: Path, texture: Image.Image, settings: dict[str, Any]
    ) -> None:
        found, expected = self.pixels(folder, ConvNextImageProcessorPil(**settings), texture)
        assert_close_to_pillow(found, expected, settings["image_std"])

    def test_pixels_match_the_torchvision_processor(
        self, folder: Path, texture: Image.Image, settings: dict[str, Any], resample: int
    ) -> None:
        differences = self.level_differences(folder, ConvNextImageProcessor(**settings), texture)
        assert differences.max() < (1.01 if resample == 2 else 2.01)
        assert differences.flatten().sort().values[int(0.9999 * differences.numel())] < 1.01

    def test_rounds_an_odd_margin_down(self, folder: Path, settings: dict[str, Any]) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
        processor = ConvNextImageProcessorPil(**settings)
        differences = self.level_differences(folder, processor, Image.fromarray(noise))
        assert differences.max() < 3.5  # a crop that is shifted by a pixel differs by 40 levels on average
        assert differences.mean() < 0.5


def test_uses_the_defaults_of_the_processor_for_absent_keys(folder: Path, texture: Image.Image) -> None:
    build().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ConvNextImageProcessor"}')
    expected = ConvNextImageProcessorPil()(texture, return_tensors="pt")["pixel_values"][0]
    transform = load_model(folder).transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


def test_a_processor_without_a_type_is_that_of_the_network(folder: Path) -> None:
    build().save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}).save_pretrained(folder)
    expected = read_card(folder)
    update_json(folder / "preprocessor_config.json", {"image_processor_type": None})
    found = AutoImageProcessor.from_pretrained(folder)  # type: ignore[no-untyped-call]  # transformers is untyped
    assert isinstance(found, ConvNextImageProcessor)
    assert read_card(folder) == expected


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (ViTImageProcessor, {"size": {"height": 64, "width": 64}}),
        (BitImageProcessor, {"size": {"shortest_edge": 73}, "crop_size": {"height": 64, "width": 64}}),
        (CLIPImageProcessor, {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    ],
)
def test_pixels_match_the_processors_of_other_networks(
    folder: Path,
    texture: Image.Image,
    kind: Any,  # Any: several classes
    options: dict[str, Any],  # Any: arguments of different types
) -> None:
    processor = kind(**options)
    build().save_pretrained(folder)
    processor.save_pretrained(folder)
    expected = processor(texture, return_tensors="pt")["pixel_values"][0]
    found = load_model(folder).transform(texture)
    assert (found - expected).abs().max() < 2.01 / 255 / min(processor.image_std)
    update_json(folder / "preprocessor_config.json", {"size": {"height": 64, "width": 32}, "do_center_crop": False})
    with pytest.raises(CheckpointError, match="square"):
        load_model(folder)


def test_a_configuration_may_have_keys_of_timm(folder: Path) -> None:
    """``num_classes`` is a mistake for ``num_labels``, which transformers keeps; ``pretrained_cfg`` is the user's."""
    build(layer_norm_eps=1e-3, num_classes=2).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "LevitImageProcessor"}')
    update_json(folder / "config.json", {"pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0}})
    model = load_model(folder)
    assert (model.labels, model.config.head_norm_eps) == (("cat", "dog", "owl"), 1e-3)
    assert (model.transform.resize_size, model.transform.crop_size) == (64, 64)


def test_treats_null_as_absent(folder: Path) -> None:
    build().save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 224}).save_pretrained(folder)
    expected = read_card(folder)
    update_json(folder / "preprocessor_config.json", {"crop_pct": None, "image_mean": None, "do_pad": None})
    update_json(folder / "config.json", {"hidden_act": None, "layer_norm_eps": None})
    assert read_card(folder) == expected


def test_notes_a_missing_processor(folder: Path) -> None:
    build().save_pretrained(folder)
    assert any("preprocessing" in note for note in load_model(folder).notes)


def test_a_switch_that_is_null_is_off(folder: Path, texture: Image.Image) -> None:
    build().save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 224}).save_pretrained(folder)
    update_json(folder / "preprocessor_config.json", {"do_normalize": None})
    processor = ConvNextImageProcessorPil.from_pretrained(folder)
    expected = processor(texture, return_tensors="pt")["pixel_values"][0]
    transform = load_model(folder).transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("has_config", [True, False])
def test_reads_the_processor_that_transformers_reads(
    folder: Path, texture: Image.Image, beside: bool, has_config: bool
) -> None:
    build().save_pretrained(folder)
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 224}, image_mean=[0.1, 0.2, 0.3], crop_pct=0.9)
    if beside:
        ConvNextImageProcessorPil(size={"shortest_edge": 256}).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": processor.to_dict()}))
    if not has_config:
        (folder / "config.json").unlink()
    expected = ConvNextImageProcessorPil.from_pretrained(folder)(texture, return_tensors="pt")["pixel_values"][0]
    transform = load_model(folder).transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize(
    ("file", "changes", "value"),
    [
        ("config.json", {"model_type": "resnet"}, "model_type='resnet'"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act='relu'"),
        ("config.json", {"problem_type": "regression"}, "problem_type='regression'"),
        ("config.json", {"id2label": {"0": "cat", "2": "owl"}}, "class 1"),
        ("config.json", {"id2label": 3}, "id2label.* int"),
        ("preprocessor_config.json", {"image_processor_type": "LevitImageProcessor"}, "'LevitImageProcessor'"),
        ("preprocessor_config.json", {"resample": 1}, "resample=1"),
        ("preprocessor_config.json", {"rescale_factor": 0.5}, "rescale_factor=0.5"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize=False"),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, "shortest_edge"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "ValueError"),
        ("preprocessor_config.json", {"crop_pct": 0}, "ZeroDivisionError"),
    ],
)
def test_rejects_unsupported_settings(folder: Path, file: str, changes: Mapping[str, object], value: str) -> None:
    build().save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(folder)
    update_json(folder / file, changes)
    with pytest.raises(CheckpointError, match=value):
        load_model(folder)


def test_rejects_a_different_number_of_labels(folder: Path) -> None:
    build().save_pretrained(folder)
    update_json(folder / "config.json", {"id2label": {"0": "cat", "1": "dog"}})
    with pytest.raises(CheckpointMismatch, match=r"2 labels.* 3"):
        load_model(folder)


def test_rejects_a_network_without_a_head(folder: Path) -> None:
    ConvNextModel(ConvNextConfig(**SMALL)).save_pretrained(folder)
    with pytest.raises(CheckpointMismatch, match=r"missing key classifier\.weight"):
        load_model(folder)


def test_rejects_sharded_weights(folder: Path) -> None:
    build().save_pretrained(folder, max_shard_size="20KB")
    with pytest.raises(CheckpointError, match="max_shard_size"):
        load_model(folder)
