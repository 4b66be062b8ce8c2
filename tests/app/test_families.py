"""POST /predict returns the probabilities of the library that saved the checkpoint, for every family."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from fastapi.testclient import TestClient
from timm.models import save_for_hf
from torch import nn
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

from app.main import create_app
from app.settings import Settings
from model.images.transform import IMAGENET_MEAN, IMAGENET_STD
from tests.conftest import Encode, MakePhoto
from tests.model.checkpoints.test_parity_facebook import with_authors_keys
from tests.model.conftest import randomize

LABELS = ["ant", "bee", "cat"]
DEPTHS, WIDTHS = (1, 1, 1, 1), (8, 12, 16, 24)
Saved = tuple[nn.Module, Path]


def save_timm(folder: Path) -> Saved:
    network = randomize(timm.create_model("convnextv2_atto", depths=DEPTHS, dims=WIDTHS, num_classes=3))
    data = {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "center"}
    config = {"label_names": LABELS, "pretrained_cfg": data}
    save_for_hf(network, str(folder), model_config=config, safe_serialization=True)
    return network, folder


def save_transformers(folder: Path) -> Saved:
    config = ConvNextConfig(hidden_sizes=list(WIDTHS), depths=list(DEPTHS), id2label=dict(enumerate(LABELS)))
    network = randomize(ConvNextForImageClassification(config))
    network.save_pretrained(folder)
    processor = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0, resample=2)
    processor.image_mean, processor.image_std = list(IMAGENET_MEAN), list(IMAGENET_STD)
    processor.save_pretrained(folder)
    return network, folder


def save_torchvision(folder: Path) -> Saved:
    stages = zip(WIDTHS, [*WIDTHS[1:], None], DEPTHS, strict=True)
    network = randomize(TorchvisionConvNeXt([CNBlockConfig(*stage) for stage in stages], num_classes=3))
    torch.save(network.state_dict(), folder / "mine.pth")
    return network, folder / "mine.pth"


def save_facebook(folder: Path) -> Saved:
    network = timm.create_model("convnext_atto", depths=DEPTHS, dims=WIDTHS, num_classes=3, conv_mlp=False)
    network = randomize(network)
    torch.save({"model": with_authors_keys(network.state_dict())}, folder / "checkpoint.pth")
    return network, folder / "checkpoint.pth"


@pytest.mark.parametrize(
    ("save", "resize_size", "interpolation"),
    [
        (save_timm, 224, InterpolationMode.BILINEAR),
        (save_transformers, 224, InterpolationMode.BILINEAR),
        (save_torchvision, 256, InterpolationMode.BILINEAR),
        (save_facebook, 256, InterpolationMode.BICUBIC),
    ],
)
def test_predictions_match_the_original_library(
    save: Callable[[Path], Saved],
    resize_size: int,
    interpolation: InterpolationMode,
    tmp_path: Path,
    make_photo: MakePhoto,
    encode: Encode,
) -> None:
    network, path = save(tmp_path)
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    photo = make_photo(300, 260)
    settings = Settings(model=str(path), labels=tmp_path / "labels.txt", device="cpu", precision="float32")
    with TestClient(create_app(settings)) as client:
        response = client.post("/predict", files={"file": encode(photo)})
    assert response.status_code == 200
    found = {prediction["label"]: prediction["probability"] for prediction in response.json()["predictions"]}
    normalize = partial(F.normalize, mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))
    with torch.inference_mode():
        pixels = F.pil_to_tensor(F.center_crop(F.resize(photo, resize_size, interpolation), 224))
        logits = network(normalize(F.to_dtype(pixels, torch.float32, scale=True))[None])
    expected = getattr(logits, "logits", logits).softmax(1)[0].tolist()
    assert [found[label] for label in LABELS] == pytest.approx(expected, abs=1e-4)  # their resize is Pillow's
