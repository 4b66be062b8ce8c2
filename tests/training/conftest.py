import json
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from training.data import Photos
from training.recipe import Phase, Recipe

CLASSES = 4
collect_ignore = [] if find_spec("matplotlib") else ["test_export.py", "test_plot.py", "test_train.py"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other after every operation are slow where other programs use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        num_classes=CLASSES,
        phases=(Phase(2, 64, 0.5, (0.35, 1.0)), Phase(1, 96, 0.0, (0.5, 1.0))),
        held_out=8,
        batch_size=8,
        warm_up=2,
    )


def make_photos(count: int) -> Photos:
    rng = np.random.default_rng(0)
    labels = np.arange(count, dtype=np.int64) % CLASSES
    return Photos(rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8), labels)


@pytest.fixture
def photos() -> Photos:
    return make_photos(24)


def write_packed(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    files = []
    for image in images:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "WEBP", lossless=True)
        files.append(buffer.getvalue())
    offset = np.cumsum([0, *map(len, files)])
    np.savez(path, webp=np.frombuffer(b"".join(files), np.uint8), offset=offset, label=labels.astype(np.int16))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    photos = make_photos(36)
    for index, name in enumerate(("train-0", "train-1", "train-2", "val")):
        part = slice(9 * index, 9 * index + 9)
        write_packed(folder / f"{name}.npz", photos.images[part], photos.labels[part])
    synonyms = [["goldfish", "Carassius"], ["crane", "bird"], ["crane", "machine"], ["espresso"]]
    classes = [{"wnid": f"n{index}", "synonyms": names} for index, names in enumerate(synonyms)]
    (folder / "classes.json").write_text(json.dumps(classes))
    return folder
