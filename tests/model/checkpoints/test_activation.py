"""The output function of a checkpoint: that of the library that saved it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    ImageClassificationPipeline,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from model import LoadedModel, Transform, load_model
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig
from model.errors import CheckpointError
from model.head import scores
from tests.model.conftest import randomize

LABELS = {1: ("cat",), 3: ("cat", "dog", "owl")}
PROCESSOR = ConvNextImageProcessor(size={"shortest_edge": 64})


def transformers_network(**options: Any) -> PreTrainedModel:  # Any: arguments of different types
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 24], **options)
    return randomize(ConvNextForImageClassification(config))


def timm_wrapper(num_classes: int, **options: Any) -> PreTrainedModel:  # Any: arguments of different types
    config = {"architecture": "convnext_atto", "num_classes": num_classes, "label_names": LABELS[num_classes]}
    arguments = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 24]}
    data = {"input_size": [3, 64, 64], "mean": [0.5] * 3, "std": [0.5] * 3}
    wrapped = TimmWrapperConfig.from_dict(config | {"model_args": arguments, "pretrained_cfg": data} | options)
    return randomize(TimmWrapperForImageClassification(wrapped))


def scores_of(model: LoadedModel, image: Image.Image) -> dict[str, float]:
    with torch.inference_mode():
        logits = model.network(model.transform(image)[None]).numpy()[0]
    return dict(zip(model.labels, scores(logits, model.activation).tolist(), strict=True))


@pytest.mark.parametrize(
    ("num_classes", "problem_type"),
    [
        (1, None),
        (1, "multi_label_classification"),
        (3, None),
        (3, "single_label_classification"),
        (3, "multi_label_classification"),
    ],
)
def test_scores_are_those_of_the_transformers_pipeline(
    tmp_path: Path, texture: Image.Image, num_classes: int, problem_type: str | None
) -> None:
    labels = dict(enumerate(LABELS[num_classes]))
    network = transformers_network(id2label=labels, problem_type=problem_type)
    network.save_pretrained(tmp_path)
    PROCESSOR.save_pretrained(tmp_path)
    pipeline = ImageClassificationPipeline(model=network, image_processor=PROCESSOR)  # type: ignore[no-untyped-call]  # as the library has it
    expected = {item["label"]: item["score"] for item in pipeline(texture, top_k=num_classes)}
    assert scores_of(load_model(tmp_path), texture) == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize(
    ("num_classes", "problem_type", "activation"),
    [
        (3, None, "softmax"),
        (3, "single_label_classification", "softmax"),
        (3, "multi_label_classification", "sigmoid"),
        (1, None, "sigmoid"),
    ],
)
def test_a_timm_wrapper_has_the_function_of_its_problem_type(
    tmp_path: Path, num_classes: int, problem_type: str | None, activation: str
) -> None:
    network = timm_wrapper(num_classes, problem_type=problem_type)
    network.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert (model.activation, model.labels) == (activation, LABELS[num_classes])
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.network(images), network(images).logits)


@pytest.mark.parametrize("wrapped", [True, False])
def test_rejects_regression_by_name(tmp_path: Path, wrapped: bool) -> None:
    options = {"problem_type": "regression"}
    network = timm_wrapper(1, **options) if wrapped else transformers_network(num_labels=1, **options)
    network.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="regression"):
        load_model(tmp_path)


@pytest.mark.parametrize(("num_classes", "inferred"), [(1, "sigmoid"), (3, "softmax")])
def test_infers_sigmoid_for_one_class_unless_told(tmp_path: Path, num_classes: int, inferred: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file(ConvNeXt(ConvNeXtConfig((1,), (8,), num_classes=num_classes)).state_dict(), path)
    assert load_model(path).activation == inferred
    assert load_model(path, activation="sigmoid").activation == "sigmoid"


def test_rejects_softmax_over_one_class(tmp_path: Path) -> None:
    save_file(ConvNeXt(ConvNeXtConfig((1,), (8,), num_classes=1)).state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="one class"):
        load_model(tmp_path / "x.safetensors", activation="softmax")


def test_the_native_format_keeps_the_function(tmp_path: Path) -> None:
    config = ConvNeXtConfig((1,), (8,), num_classes=3)
    tensors, path = ConvNeXt(config).state_dict(), tmp_path / "x.safetensors"
    save_checkpoint(path, tensors, config, Transform(64, 64), LABELS[3], name="x", licence="MIT", activation="sigmoid")
    assert load_model(path).activation == "sigmoid"
    assert load_model(path, activation="softmax").activation == "softmax"


def test_rejects_an_unknown_function_in_the_native_format(tmp_path: Path) -> None:
    config = ConvNeXtConfig((1,), (8,), num_classes=3)
    tensors, path = ConvNeXt(config).state_dict(), tmp_path / "x.safetensors"
    metadata = {"activation": "tanh"}
    save_checkpoint(path, tensors, config, Transform(64, 64), LABELS[3], name="x", licence="MIT", metadata=metadata)
    with pytest.raises(CheckpointError, match="tanh"):
        load_model(path)
