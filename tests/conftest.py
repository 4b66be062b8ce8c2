"""Encoded images, a small checkpoint, and an environment without settings."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model import LoadedModel, Transform, load_model
from model.checkpoints.native import save_checkpoint
from model.convnext import ConvNeXt, ConvNeXtConfig

Encode = Callable[..., bytes]
MakePhoto = Callable[..., Image.Image]


def pytest_configure() -> None:
    """Keeps torch to one thread where several processes run the tests, as they would wait for each other's cores."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _without_environment_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("CONVNEXT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def make_photo() -> MakePhoto:
    """``make_photo(width, height)`` returns an RGB image with smooth areas, edges and noise."""

    def make(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
        random = np.random.default_rng(seed)
        y, x = np.mgrid[0:height, 0:width]
        smooth = np.stack([255 * x / width, 255 * y / height, 127 + 127 * np.sin((x + y) / 17)], axis=2)
        smooth[height // 3 : height // 2, width // 4 : width // 2] = (250, 20, 60)
        noisy = smooth + random.normal(0, 12, smooth.shape)
        return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))

    return make


@pytest.fixture(scope="session")
def encode() -> Encode:
    """``encode(image, format, **options)`` returns the encoded image."""

    def make(image: Image.Image, format: str = "PNG", **options: object) -> bytes:  # noqa: A002
        buffer = io.BytesIO()
        image.save(buffer, format, **options)
        return buffer.getvalue()

    return make


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with 5 classes and 32×32 pixels, with random weights that make the probabilities differ."""
    config = ConvNeXtConfig((1, 1, 2, 1), (8, 12, 16, 24), num_classes=5)
    network = ConvNeXt(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    labels = ("ant", "bee", "cat", "dog", "eel")
    save_checkpoint(path, network.state_dict(), config, Transform(36, 32), labels, name="tiny", licence="CC0-1.0")
    return path


@pytest.fixture(scope="session")
def tiny_model(tiny_path: Path) -> LoadedModel:
    """The model of ``tiny_path``."""
    return load_model(tiny_path)
