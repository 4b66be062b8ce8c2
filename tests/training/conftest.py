import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from training.data import Photos
from training.recipe import ATTO, Phase, Recipe

CLASSES = 4


@pytest.fixture(autouse=True)
def single_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe() -> Recipe:
    """Nine steps of a small network, three an epoch, the last three at a larger input size."""
    return Recipe(
        network=replace(ATTO, depths=(1, 2), widths=(8, 16), num_classes=CLASSES),
        steps=9,
        decay_steps=3,
        stable=Phase((64,), (0.35, 1.0)),
        decay=Phase((80, 96), (0.5, 1.0)),
        held_out_per_class=2,
        batch_size=8,
        warmup_steps=2,
    )


def make_images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def make_labels(count: int) -> NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % CLASSES


def encode(image: NDArray[np.uint8]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


@pytest.fixture
def photos() -> Photos:
    return Photos(torch.from_numpy(make_images(24)).permute(0, 3, 1, 2), torch.from_numpy(make_labels(24)))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    encoded, labels = [encode(image) for image in make_images(36)], make_labels(36)
    for index, name in enumerate(("train-0", "train-1", "train-2", "val")):
        part = slice(9 * index, 9 * index + 9)
        webp, offset = np.frombuffer(b"".join(encoded[part]), np.uint8), np.cumsum([0, *map(len, encoded[part])])
        np.savez(folder / f"{name}.npz", webp=webp, offset=offset, label=labels[part].astype(np.int16))
    synonyms = [["goldfish", "Carassius"], ["crane", "bird"], ["crane", "machine"], ["espresso"]]
    classes = [{"wnid": f"n{index}", "synonyms": names} for index, names in enumerate(synonyms)]
    (folder / "classes.json").write_text(json.dumps(classes))
    return folder
