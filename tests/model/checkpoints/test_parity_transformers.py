"""Networks of transformers with random weights, saved by save_pretrained, give the same logits and pixels here."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ConvNextModel,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
)
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from model import load_model
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.pixels import assert_close_to_pillow

TOLERANCE = 1e-4
CLASSES = {1: (ConvNextConfig, ConvNextForImageClassification), 2: (ConvNextV2Config, ConvNextV2ForImageClassification)}
SMALL = {"depths": [1, 2, 1, 1], "hidden_sizes": [16, 24, 40, 64], "id2label": {0: "cat", 1: "dog", 2: "owl"}}


def build(version=1, **changes):
    config, network = CLASSES[version]
    return network(config(**SMALL | changes))


@pytest.mark.parametrize("version", [1, 2])
def test_a_folder(tmp_path, version, randomise, largest_difference):
    reference = randomise(build(version))
    reference.save_pretrained(tmp_path / "mine")
    ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(tmp_path / "mine")
    model = load_model(tmp_path / "mine")
    assert (model.family, model.labels, model.notes) == ("huggingface", ("cat", "dog", "owl"), ())
    assert (model.config.grn, model.config.layer_scale) == (version == 2, version == 1)
    assert largest_difference(model.network, reference) < TOLERANCE


@pytest.mark.parametrize("version", [1, 2])
def test_a_bare_file(tmp_path, version, randomise, largest_difference):
    reference = randomise(build(version))
    torch.save(reference.state_dict(), tmp_path / "bare.bin")
    assert largest_difference(load_model(tmp_path / "bare.bin").network, reference) < TOLERANCE


def test_no_layer_scale(tmp_path, randomise, largest_difference):
    reference = randomise(build(layer_scale_init_value=0.0))
    reference.save_pretrained(tmp_path / "mine")
    assert largest_difference(load_model(tmp_path / "mine").network, reference) < TOLERANCE


@pytest.mark.parametrize("eps", [1e-12, 1e-5])
def test_the_last_norms_eps(tmp_path, eps, randomise, quieten, largest_difference):
    reference = quieten(randomise(build(layer_norm_eps=eps)))
    reference.save_pretrained(tmp_path / "mine")
    model = load_model(tmp_path / "mine")
    assert (model.config.norm_eps, model.config.head_norm_eps) == (1e-6, eps)
    assert largest_difference(model.network, reference) < TOLERANCE
    model.network.head.norm.eps = 1e-6
    assert largest_difference(model.network, reference) > 10 * TOLERANCE


def levels(found, expected, processor):
    """The differences in units of one of 256 levels."""
    return (found - expected).abs() * torch.tensor(processor.image_std).view(3, 1, 1) * 255


@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
@pytest.mark.parametrize("side", [64, 224, 384])
class TestPixels:
    @pytest.fixture
    def settings(self, side, resample):
        normalisation = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
        return {"size": {"shortest_edge": side}, "resample": resample} | normalisation

    def found(self, tmp_path, processor, image):
        build().save_pretrained(tmp_path / "mine")
        processor.save_pretrained(tmp_path / "mine")
        return load_model(tmp_path / "mine").transform(image)

    def test_those_of_the_processor_on_pillow(self, tmp_path, texture, settings):
        processor = ConvNextImageProcessorPil(**settings)
        expected = processor(texture, return_tensors="pt")["pixel_values"][0]
        assert_close_to_pillow(self.found(tmp_path, processor, texture), expected, processor.image_std)

    def test_those_of_the_processor_on_torchvision(self, tmp_path, texture, settings, resample):
        """It resizes a tensor in one pass, where Pillow rounds between two; bicubic overshoots make that two levels."""
        processor = ConvNextImageProcessor(**settings)
        expected = processor(texture, return_tensors="pt")["pixel_values"][0]
        differences = levels(self.found(tmp_path, processor, texture), expected, processor)
        assert differences.max() < (1.01 if resample == 2 else 2.01)
        assert differences.flatten().sort().values[int(0.9999 * differences.numel())] < 1.01

    def test_an_odd_margin_is_rounded_down(self, tmp_path, settings, side):
        noise = np.random.default_rng(0).integers(0, 256, (61, 90, 3), dtype=np.uint8)
        processor = ConvNextImageProcessorPil(**settings)
        expected = processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"][0]
        difference = levels(self.found(tmp_path, processor, Image.fromarray(noise)), expected, processor)
        assert difference.max() < 3.5  # a crop that is shifted by a pixel differs by 40 levels on average
        assert difference.mean() < 0.5


def test_the_processors_own_defaults_fill_what_it_does_not_say(tmp_path, texture):
    build().save_pretrained(tmp_path / "mine")
    (tmp_path / "mine" / "preprocessor_config.json").write_text('{"image_processor_type": "ConvNextImageProcessor"}')
    expected = ConvNextImageProcessorPil()(texture, return_tensors="pt")["pixel_values"][0]
    transform = load_model(tmp_path / "mine").transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


def test_without_a_processor_the_assumption_is_said(tmp_path):
    build().save_pretrained(tmp_path / "mine")
    assert "no preprocessor_config.json" in load_model(tmp_path / "mine").notes[0]


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "resnet"}, "of a 'resnet', not of a ConvNeXt"),
        ("config.json", {"hidden_act": "relu"}, "hidden_act='relu' is not implemented"),
        ("config.json", {"problem_type": "multi_label_classification"}, "one class per image"),
        ("config.json", {"id2label": {"0": "cat", "2": "owl"}}, "none for class 1"),
        ("config.json", {"id2label": 3}, "id2label: labels must be"),
        ("preprocessor_config.json", {"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor is not"),
        ("preprocessor_config.json", {"resample": 1}, r"resample=1 is not implemented"),
        ("preprocessor_config.json", {"rescale_factor": 0.5}, "rescale_factor=0.5"),
        ("preprocessor_config.json", {"do_resize": False}, "do_resize=false"),
        ("preprocessor_config.json", {"size": {"height": 224, "width": 224}}, "unexpected content.*shortest_edge"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "unexpected content"),
    ],
)
def test_what_would_be_done_differently_is_refused(tmp_path, file, changes, message):
    build().save_pretrained(tmp_path / "mine")
    ConvNextImageProcessor(size={"shortest_edge": 224}).save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "mine")


def test_labels_of_another_count(tmp_path):
    build().save_pretrained(tmp_path / "mine")
    path = tmp_path / "mine" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "cat", "1": "dog"}}))
    with pytest.raises(CheckpointMismatch, match="2 labels for a head of 3 classes"):
        load_model(tmp_path / "mine")


def test_a_network_without_a_head(tmp_path):
    ConvNextModel(ConvNextConfig(**SMALL)).save_pretrained(tmp_path / "mine")
    with pytest.raises(CheckpointMismatch, match=r"classifier\.weight is missing: it has no classification head"):
        load_model(tmp_path / "mine")


def test_shards(tmp_path):
    build().save_pretrained(tmp_path / "mine", max_shard_size="20KB")
    with pytest.raises(CheckpointError, match="in shards; save them in one file"):
        load_model(tmp_path / "mine")
