"""The photos as arrays: the packed WebP files of Tiny ImageNet-200, decoded once into memory."""

import io
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64  # pixels
TRAIN_FILES = ("train-0.npz", "train-1.npz", "train-2.npz")
VAL_FILE = "val.npz"


@dataclass(frozen=True)
class Photos:
    """Decoded photos ``(N, 64, 64, 3) uint8`` with their labels ``(N,) int64``."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Photos":
        return Photos(self.images[indices], self.labels[indices])


def read_encoded(path: Path) -> tuple[list[bytes], NDArray[np.int64]]:
    """The encoded photos of one packed file, and their labels ``(N,) int64``."""
    with np.load(path) as packed:
        data, offset, label = packed["webp"], packed["offset"], packed["label"]
    photos = [data[start:end].tobytes() for start, end in pairwise(offset)]
    return photos, label.astype(np.int64)


def decode(photo: bytes) -> NDArray[np.uint8]:
    """One encoded photo as ``(64, 64, 3) uint8`` RGB."""
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (SIDE, SIDE, 3):
        raise ValueError(f"expected a photo of {SIDE}×{SIDE} pixels, got {pixels.shape}")
    return pixels


def load_train(data_dir: Path, cache_dir: Path) -> Photos:
    """The training set, memory-mapped from ``cache_dir``, which is filled on the first call (1.2 GB)."""
    images_path, labels_path = cache_dir / "train_images.npy", cache_dir / "train_labels.npy"
    if not labels_path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        photos = _decode_files([data_dir / name for name in TRAIN_FILES])
        np.save(images_path, photos.images)
        np.save(labels_path, photos.labels)  # last: its presence says that the cache is complete
    return Photos(np.load(images_path, mmap_mode="r"), np.load(labels_path))


def _decode_files(paths: list[Path]) -> Photos:
    images, labels = [], []
    with ProcessPoolExecutor() as pool:
        for path in paths:
            encoded, label = read_encoded(path)
            images.append(np.stack(list(pool.map(decode, encoded, chunksize=500))))
            labels.append(label)
    return Photos(np.concatenate(images), np.concatenate(labels))


def split(labels: NDArray[np.int64], held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and indices held out, the latter with as many photos of each class as of any other."""
    classes, counts = np.unique(labels, return_counts=True)
    per_class, rest = divmod(held_out, len(classes))
    if rest or per_class >= counts.min():
        raise ValueError(f"cannot hold out {held_out} photos of {len(classes)} classes evenly")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    is_held_out = np.zeros(len(labels), dtype=bool)
    is_held_out[by_class[(starts[:, None] + np.arange(per_class)).ravel()]] = True
    return np.flatnonzero(~is_held_out), np.flatnonzero(is_held_out)


def class_labels(data_dir: Path) -> list[str]:
    """The usual name of each class in label order; classes that share one get the next synonym in brackets."""
    synonyms: list[list[str]] = [entry["synonyms"] for entry in json.loads((data_dir / "classes.json").read_text())]
    uses = Counter(names[0] for names in synonyms)
    return [names[0] if uses[names[0]] == 1 else f"{names[0]} ({names[-1]})" for names in synonyms]
