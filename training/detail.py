"""Compares ways of preparing sharp photos for a network that was trained on photos of 64 pixels.

``python -m training.detail`` prints a Markdown table over scikit-image's own photos.
"""

import argparse
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from model import LoadedModel, load_model
from model.inference.engine import InferenceEngine
from model.preprocess import MAX_IMAGE_PIXELS, Transform, preprocess
from training.evaluate import SERVED

# The photos of the package that show something of the 200 classes, with the labels that are right for them.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "chelsea": ("tabby", "Egyptian cat", "Persian cat"),
    "coffee": ("espresso",),
    "rocket": ("projectile",),
}


def candidates(transform: Transform) -> dict[str, Transform]:
    """What is compared: straight resizes, and reducing first to a number of pixels."""
    straight = {f"resize {size}": replace(transform, resize_size=size, detail_size=None) for size in (224, 256)}
    reduced = {
        f"reduce to {detail}, resize {size}": replace(transform, resize_size=size, detail_size=detail)
        for detail in (48, 64, 80, 96, 128)
        for size in (224, 256)
    }
    return straight | reduced


def encode(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def rank_of(
    model: LoadedModel, engine: InferenceEngine, photo: bytes, right: tuple[str, ...]
) -> tuple[int, str, float]:
    """The best rank (from 1) of a right label, that label and its probability."""
    image = preprocess(photo, model.transform, MAX_IMAGE_PIXELS)
    result = engine.predict([image], len(model.labels))
    names = [model.labels[class_id] for class_id in result.class_ids[0]]
    rank = min(names.index(name) for name in right)
    return rank + 1, names[rank], float(result.probabilities[0, rank])


def compare(model: LoadedModel) -> Iterator[str]:
    """The lines of a Markdown table: a row for each candidate, a column for each photo."""
    photos = {name: encode(getattr(skimage.data, name)()) for name in SUBJECTS}
    yield f"| preparation | {' | '.join(SUBJECTS)} |"
    yield "|---" * (1 + len(SUBJECTS)) + "|"
    for title, transform in candidates(model.transform).items():
        prepared = replace(model, transform=transform)
        engine = InferenceEngine(prepared, device="cpu")
        ranks = (rank_of(prepared, engine, photos[name], right) for name, right in SUBJECTS.items())
        yield f"| {title} | {' | '.join(f'{rank}: {name}, {100 * p:.1f} %' for rank, name, p in ranks)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=SERVED)
    for line in compare(load_model(parser.parse_args().file)):
        print(line)


if __name__ == "__main__":
    main()
