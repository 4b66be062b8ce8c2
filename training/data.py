"""Tiny ImageNet-200, packed as WebP files in ``.npz`` archives."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

TRAIN_FILES = ("train-0.npz", "train-1.npz", "train-2.npz")
VAL_FILE = "val.npz"
SIDE = 64  # pixels


@dataclass(frozen=True)
class Photos:
    """Decoded photos ``(N, 3, H, W)`` uint8 with their labels ``(N,)`` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> "Photos":
        """Returns the photos at ``indices``."""
        return Photos(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Photos":
        """Returns the photos in the memory of ``device``."""
        return Photos(self.images.to(device), self.labels.to(device))


def read_encoded(path: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """Returns the encoded photos of one archive and their labels ``(N,) int64``."""
    with np.load(path) as packed:
        data, offset, label = packed["webp"], packed["offset"], packed["label"]
    photos = [data[start:end].tobytes() for start, end in pairwise(offset)]
    return photos, label.astype(np.int64)


def load_train(data_dir: Path) -> Photos:
    """Returns the training set of ``data_dir``."""
    parts = [read_encoded(data_dir / name) for name in TRAIN_FILES]
    labels = np.concatenate([labels for _, labels in parts])
    images = np.empty((len(labels), 3, SIDE, SIDE), np.uint8)
    for index, photo in enumerate(chain.from_iterable(encoded for encoded, _ in parts)):
        images[index] = _decode(photo)
    return Photos(torch.from_numpy(images), torch.from_numpy(labels))


def _decode(photo: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(photo)) as image:
        return np.array(image.convert("RGB")).transpose(2, 0, 1)  # (3, SIDE, SIDE)


def split(photos: Photos, held_out_per_class: int, seed: int) -> tuple[Photos, Photos]:
    """Returns the photos to train on and the held-out photos, a random choice of the same number from each class.

    Raises ``ValueError`` if a class has too few photos.
    """
    labels = photos.labels.numpy()
    counts = np.bincount(labels)
    if held_out_per_class >= counts.min():
        raise ValueError(f"cannot hold out {held_out_per_class} photos per class of {counts.min()}")
    shuffled = np.random.default_rng(seed).permutation(len(photos))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    held_out = by_class[(starts[:, None] + np.arange(held_out_per_class)).ravel()]
    train = np.setdiff1d(shuffled, held_out)
    return photos.subset(torch.from_numpy(train)), photos.subset(torch.from_numpy(np.sort(held_out)))


def class_labels(data_dir: Path) -> list[str]:
    """Returns the name of each class in label order; ambiguous names are followed by a synonym in brackets."""
    synonyms: list[list[str]] = [entry["synonyms"] for entry in json.loads((data_dir / "classes.json").read_text())]
    uses = Counter(names[0] for names in synonyms)
    return [names[0] if uses[names[0]] == 1 else f"{names[0]} ({names[-1]})" for names in synonyms]
