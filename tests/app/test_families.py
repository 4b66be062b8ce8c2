"""A file of every family, served over HTTP, answers what the library that saved it does."""

import re
from functools import partial

import pytest
import timm
import torch
from fastapi.testclient import TestClient
from timm.models import save_for_hf
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers import ConvNextConfig, ConvNextForImageClassification, ConvNextImageProcessor

from app.main import create_app
from app.settings import Settings
from tests.model.checkpoints.test_parity_facebook import AUTHORS_NAMES
from tests.model.conftest import _randomise as randomise

LABELS = ["ant", "bee", "cat"]
DEPTHS, WIDTHS = (1, 1, 1, 1), (8, 12, 16, 24)


def of_timm(folder):
    network = timm.create_model("convnextv2_atto", depths=DEPTHS, dims=WIDTHS, num_classes=3)
    data = {"input_size": (3, 224, 224), "crop_pct": 1.0, "interpolation": "bilinear", "crop_mode": "center"}
    config = {"label_names": LABELS, "pretrained_cfg": data}
    return network, lambda: save_for_hf(network, folder, model_config=config, safe_serialization=True), folder


def of_transformers(folder):
    config = ConvNextConfig(hidden_sizes=WIDTHS, depths=DEPTHS, id2label=dict(enumerate(LABELS)))
    network = ConvNextForImageClassification(config)

    def save():
        network.save_pretrained(folder)
        processor = ConvNextImageProcessor(size={"shortest_edge": 224}, crop_pct=1.0, resample=2)
        processor.image_mean, processor.image_std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        processor.save_pretrained(folder)

    return network, save, folder


def of_torchvision(folder):
    widths = [*zip(WIDTHS, [*WIDTHS[1:], None], DEPTHS, strict=True)]
    network = TorchvisionConvNeXt([CNBlockConfig(*one) for one in widths], num_classes=3)
    return network, lambda: torch.save(network.state_dict(), folder / "mine.pth"), folder / "mine.pth"


def of_the_authors(folder):
    network = timm.create_model("convnext_atto", depths=DEPTHS, dims=WIDTHS, num_classes=3, conv_mlp=False)

    def save():
        tensors = network.state_dict()
        for pattern, replacement in AUTHORS_NAMES:
            tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
        torch.save({"model": tensors}, folder / "checkpoint.pth")

    return network, save, folder / "checkpoint.pth"


@pytest.mark.parametrize(
    ("family", "resize"),
    [
        (of_timm, (224, InterpolationMode.BILINEAR)),
        (of_transformers, (224, InterpolationMode.BILINEAR)),
        (of_torchvision, (256, InterpolationMode.BILINEAR)),
        (of_the_authors, (256, InterpolationMode.BICUBIC)),
    ],
)
def test_one_prediction(family, resize, tmp_path, make_photo, encode):
    network, save, path = family(tmp_path)
    randomise(network)
    save()
    (tmp_path / "labels.txt").write_text("\n".join(LABELS))
    photo = make_photo(300, 260)
    with TestClient(create_app(Settings(model=str(path), labels=tmp_path / "labels.txt", device="cpu"))) as client:
        response = client.post("/predict", files={"file": encode(photo)})
    assert response.status_code == 200
    found = {one["label"]: one["probability"] for one in response.json()["predictions"]}
    prepare = partial(F.normalize, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    with torch.inference_mode():
        pixels = F.pil_to_tensor(F.center_crop(F.resize(photo, *resize), 224))
        logits = network(prepare(F.to_dtype(pixels, torch.float32, scale=True))[None])
    expected = getattr(logits, "logits", logits).softmax(1)[0].tolist()
    assert [found[label] for label in LABELS] == pytest.approx(expected, abs=1e-4)  # their resize is Pillow's
