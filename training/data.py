"""Tiny ImageNet-200, packed as WebP files in ``.npz`` archives, as a torch dataset."""

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from model.images.transform import IMAGENET_MEAN, IMAGENET_STD
from training.recipe import Phase, Recipe

TRAIN_FILES = ("train-0.npz", "train-1.npz", "train-2.npz")
VAL_FILE = "val.npz"


@dataclass(frozen=True)
class Photos(Dataset[tuple[Tensor, int]]):
    """Encoded photos with their labels ``(N,)`` and the transform that turns a decoded photo into a tensor."""

    encoded: Sequence[bytes]
    labels: NDArray[np.int64]
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(io.BytesIO(self.encoded[index])) as image:
            return self.transform(image.convert("RGB")), int(self.labels[index])

    def subset(self, indices: NDArray[np.int64]) -> "Photos":
        """Returns the photos at ``indices``."""
        return Photos([self.encoded[index] for index in indices], self.labels[indices], self.transform)


def read_encoded(path: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """Returns the encoded photos of one archive and their labels ``(N,) int64``."""
    with np.load(path) as packed:
        data, offset, label = packed["webp"], packed["offset"], packed["label"]
    photos = [data[start:end].tobytes() for start, end in pairwise(offset)]
    return photos, label.astype(np.int64)


def load_train(data_dir: Path, transform: Callable[[Image.Image], Tensor]) -> Photos:
    """Returns the training set of ``data_dir``, with ``transform`` applied to each photo."""
    parts = [read_encoded(data_dir / name) for name in TRAIN_FILES]
    encoded = [photo for photos, _ in parts for photo in photos]
    return Photos(encoded, np.concatenate([labels for _, labels in parts]), transform)


def split(photos: Photos, held_out_per_class: int, seed: int) -> tuple[Photos, Photos]:
    """Returns the photos to train on and the held-out photos, a random choice of the same number from each class.

    Raises ``ValueError`` if a class has too few photos.
    """
    counts = np.bincount(photos.labels)
    if held_out_per_class >= counts.min():
        raise ValueError(f"cannot hold out {held_out_per_class} photos per class of {counts.min()}")
    shuffled = np.random.default_rng(seed).permutation(len(photos))
    by_class = shuffled[np.argsort(photos.labels[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    held_out = by_class[(starts[:, None] + np.arange(held_out_per_class)).ravel()]
    return photos.subset(np.setdiff1d(shuffled, held_out)), photos.subset(np.sort(held_out))


def class_labels(data_dir: Path) -> list[str]:
    """Returns the name of each class in label order; ambiguous names are followed by a synonym in brackets."""
    synonyms: list[list[str]] = [entry["synonyms"] for entry in json.loads((data_dir / "classes.json").read_text())]
    uses = Counter(names[0] for names in synonyms)
    return [names[0] if uses[names[0]] == 1 else f"{names[0]} ({names[-1]})" for names in synonyms]


def augmentation(recipe: Recipe, phase: Phase) -> v2.Compose:
    """Returns the random transform of a training photo to a tensor ``(3, input_size, input_size) uint8``."""
    jitter = recipe.color_jitter
    colors = [v2.ColorJitter(jitter, jitter, jitter), v2.RandomGrayscale(recipe.grayscale)]
    return v2.Compose(
        [
            *([v2.TrivialAugmentWide()] if recipe.trivial_augment else colors),
            v2.RandomResizedCrop(phase.input_size, phase.crop_scale),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
        ]
    )


def normalize(images: Tensor) -> Tensor:
    """Returns ``images (…, 3, H, W) uint8`` as float32 with the mean and standard deviation of ImageNet."""
    scaled = v2.functional.to_dtype(images, torch.float32, scale=True)
    normalized: Tensor = v2.functional.normalize(scaled, IMAGENET_MEAN, IMAGENET_STD)
    return normalized
