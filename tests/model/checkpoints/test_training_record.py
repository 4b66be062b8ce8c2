"""Training checkpoints are served with the preprocessing and the names of classes that are in them."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from timm.utils.checkpoint_saver import CheckpointSaver
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from model import Transform, load_model
from model.errors import CheckpointError, CheckpointMismatch
from tests.model.checkpoints.test_network_search import prefixed, timm_network, torchvision_network, zeros
from tests.model.conftest import largest_difference, randomize
from tests.model.images.pixels import assert_close_to_pillow

Arguments = dict[str, Any]  # Any: arguments of different types
NAMES = ("owl", "cat", "dog", "ant", "bee")
TIMM_OPTIONS: Arguments = dict.fromkeys(("img_size", "input_size", "crop_pct", "interpolation", "mean", "std", "gp"))
TORCHVISION_OPTIONS: Arguments = {"val_resize_size": 72, "val_crop_size": 64, "interpolation": "bicubic"}
AUTHORS_OPTIONS: Arguments = {"input_size": 96, "crop_pct": None, "imagenet_default_mean_and_std": True}


def save(path: Path, options: Arguments, **beside: object) -> Path:
    torch.save({"model": timm_network().state_dict(), "args": argparse.Namespace(**options)} | beside, path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"img_size": 96, "crop_pct": 0.8, "interpolation": "bilinear"},
        {"input_size": [3, 64, 64], "crop_pct": 1.0, "mean": [0.5], "std": [0.25, 0.2, 0.3]},
    ],
)
def test_preprocesses_as_timm_validates(tmp_path: Path, texture: Image.Image, options: Arguments) -> None:
    network = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), num_classes=5)
    arguments = argparse.Namespace(**TIMM_OPTIONS | {"model": "convnext_atto"} | options)
    optimizer = torch.optim.AdamW(network.parameters())
    saver: Any = CheckpointSaver(network, optimizer, arguments, checkpoint_dir=str(tmp_path))  # type: ignore[no-untyped-call]  # timm is untyped
    saver.save_checkpoint(0, metric=0.5)
    expected = create_transform(**resolve_data_config(vars(arguments), model=network))(texture)  # type: ignore[no-untyped-call]  # as above
    transform = load_model(tmp_path / "model_best.pth.tar").transform
    assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        ({"gp": "max"}, "global_pool='max'"),
        ({"model_kwargs": {"act_layer": "relu"}}, "act_layer='relu'"),
        ({"interpolation": "lanczos"}, "lanczos"),
        ({"crop_pct": "most"}, "unexpected content"),
        ({"img_size": torch.ones(2)}, "unexpected content"),
    ],
)
def test_rejects_options_of_timm_that_are_not_supported(tmp_path: Path, options: Arguments, value: str) -> None:
    with pytest.raises(CheckpointError, match=value):
        load_model(save(tmp_path / "mine.pth", TIMM_OPTIONS | options))


def test_options_without_values_leave_the_default(tmp_path: Path) -> None:
    torch.save(timm_network().state_dict(), tmp_path / "bare.pth")
    model = load_model(save(tmp_path / "mine.pth", TIMM_OPTIONS))
    assert model.transform == load_model(tmp_path / "bare.pth").transform
    stated = load_model(save(tmp_path / "mine.pth", TIMM_OPTIONS | {"img_size": 96}))
    assert stated.transform.crop_size == 96
    assert any("crop_pct" in note for note in stated.notes)


def test_preprocesses_as_the_data_configuration_of_timm_says(tmp_path: Path, texture: Image.Image) -> None:
    """People save what ``resolve_data_config`` returns with the weights, at the top or among hyperparameters."""
    config = resolve_data_config({"input_size": (3, 64, 64), "crop_pct": 0.9, "mean": (0.5, 0.4, 0.3)})  # type: ignore[no-untyped-call]  # as above
    expected = create_transform(**config)(texture)
    for beside in ({"data_config": config}, {"hyper_parameters": {"data": config}}):
        torch.save({"model": timm_network().state_dict()} | beside, tmp_path / "mine.pth")
        transform = load_model(tmp_path / "mine.pth").transform
        assert_close_to_pillow(transform(texture), expected, transform.std)


@pytest.mark.parametrize(
    "options",
    [
        {"img_size": 96},
        {"image_size": [96, 96]},
        {"mean": [0.5, 0.5, 0.5]},
        {"data": {"std": (0.5, 0.5, 0.5)}},
        {"imgsz": 10**400},
    ],
)
def test_rejects_options_that_contradict_the_defaults(tmp_path: Path, options: Arguments) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": timm_network().state_dict(), "hyper_parameters": options}, path)
    with pytest.raises(CheckpointMismatch, match=r"config\.json"):
        load_model(path)
    (tmp_path / "config.json").write_text(json.dumps({"input_size": [3, 96, 96]}))
    assert load_model(path).transform.crop_size == 96


@pytest.mark.parametrize(
    "options", [{"img_size": 224}, {"image_size": None}, {"mean": 3.5}, {"mean": [0.485, 0.456, 0.406]}]
)
def test_options_may_agree_with_the_defaults(tmp_path: Path, options: Arguments) -> None:
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": timm_network().state_dict(), "hyper_parameters": options}, path)
    assert load_model(path).transform.crop_size == 224


def test_preprocesses_as_torchvision_validates(tmp_path: Path, texture: Image.Image) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": torchvision_network().state_dict(), "args": argparse.Namespace(**TORCHVISION_OPTIONS)}, path)
    expected = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize(72, v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(64),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )(texture)
    assert torch.allclose(load_model(path).transform(texture), expected, atol=1e-5)


def test_serves_the_average_that_torchvision_evaluates(tmp_path: Path) -> None:
    reference = randomize(torchvision_network())
    average = torch.optim.swa_utils.AveragedModel(reference)
    torch.save({"model": zeros(reference.state_dict()), "model_ema": average.state_dict()}, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


def test_serves_the_network_beside_an_average_of_unknown_origin(tmp_path: Path) -> None:
    reference = randomize(timm_network())
    average = prefixed("module.")(zeros(reference.state_dict()))
    torch.save({"model": reference.state_dict(), "model_ema": average}, tmp_path / "mine.pth")
    assert largest_difference(load_model(tmp_path / "mine.pth").network, reference) < 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Transform(109, 96, "bicubic")),
        ({"crop_pct": 0.9}, Transform(106, 96, "bicubic")),
        ({"imagenet_default_mean_and_std": False}, Transform(109, 96, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
        ({"input_size": 384}, Transform(384, 384, "bicubic", squash=True)),
    ],
)
def test_preprocesses_as_the_authors_validate(tmp_path: Path, options: Arguments, expected: Transform) -> None:
    """``build_transform`` in datasets.py of facebookresearch/ConvNeXt; 109 is 96 / (224 / 256)."""
    assert load_model(save(tmp_path / "mine.pth", AUTHORS_OPTIONS | options)).transform == expected


@pytest.mark.parametrize(
    "options",
    [TORCHVISION_OPTIONS | {"val_crop_size": 99}, {"val_resize_size": 9}, AUTHORS_OPTIONS | {"input_size": 32}],
    ids=range(3),
)
def test_rejects_options_without_an_equivalent(tmp_path: Path, options: Arguments) -> None:
    with pytest.raises(CheckpointError, match="training options"):
        load_model(save(tmp_path / "mine.pth", options))


def test_a_configuration_beside_the_file_takes_precedence(tmp_path: Path) -> None:
    save(tmp_path / "mine.pth", TORCHVISION_OPTIONS, classes=NAMES)
    data = {"input_size": [3, 32, 32], "crop_pct": 0.5}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": data, "label_names": list("abcde")}))
    model = load_model(tmp_path)
    assert (model.transform, model.labels) == (Transform(64, 32, "bicubic"), tuple("abcde"))


@pytest.mark.parametrize(
    "beside",
    [
        {"class_to_idx": {name: index for index, name in reversed([*enumerate(NAMES)])}},
        {"idx_to_class": dict(enumerate(NAMES))},
        {"class_to_idx": dict(zip(NAMES, np.arange(5), strict=True)), "classes": sorted(NAMES)[:3]},
        {"classes": list(NAMES)},
        {"classes": np.array(NAMES)},
        {"meta": {"dataset_meta": {"classes": NAMES}}},
        {"hyper_parameters": {"class_names": NAMES, "lr": 0.1}},
        {"class_to_idx": {name: torch.tensor(index) for index, name in enumerate(NAMES)}},
        {"config": argparse.Namespace(id2label=dict(enumerate(NAMES)))},
        {"class_names": json.dumps(NAMES)},
    ],
    ids=range(10),
)
def test_reads_the_names_of_classes(tmp_path: Path, beside: Arguments) -> None:
    assert load_model(save(tmp_path / "mine.pth", {}, **beside)).labels == NAMES


def test_names_are_those_of_an_image_folder(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    dataset = ImageFolder(str(tmp_path / "photos"))
    path = save(tmp_path / "mine.pth", {}, classes=dataset.classes, class_to_idx=dataset.class_to_idx)
    assert load_model(path).labels == tuple(dataset.classes)


def test_reads_the_names_of_classes_in_a_header(tmp_path: Path) -> None:
    save_file(timm_network().state_dict(), tmp_path / "mine.safetensors", {"classes": json.dumps(NAMES)})
    assert load_model(tmp_path / "mine.safetensors").labels == NAMES


def test_rejects_the_same_names_in_different_orders(tmp_path: Path) -> None:
    path = save(
        tmp_path / "mine.pth", {}, classes=NAMES, class_to_idx={name: i for i, name in enumerate(sorted(NAMES))}
    )
    with pytest.raises(CheckpointError, match="class_to_idx and classes"):
        load_model(path)
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    assert load_model(path, labels=tmp_path / "labels.txt").labels == NAMES


@pytest.mark.parametrize("names", [NAMES[:3], [*range(5)], {"owl": 0, "cat": 0}], ids=range(3))
def test_says_which_names_are_not_used(tmp_path: Path, names: object) -> None:
    model = load_model(save(tmp_path / "mine.pth", {}, classes=names))
    assert model.labels[0] == "class_0"
    assert any("not used" in note for note in model.notes)


def test_names_of_something_else_are_not_used(tmp_path: Path) -> None:
    model = load_model(save(tmp_path / "mine.pth", {}, metrics={"names": ["loss", "top1", "top5", "f1", "lr"]}))
    assert model.labels[0] == "class_0"


def test_names_are_found_beside_weights_in_any_place(tmp_path: Path) -> None:
    state = prefixed("module.")(timm_network().state_dict())
    torch.save({"state": {"model": state, "class_names": NAMES}}, tmp_path / "mine.pth")
    assert load_model(tmp_path / "mine.pth").labels == NAMES
