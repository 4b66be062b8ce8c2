"""Measures the served file on the validation photos by the very path that a request takes.

``python -m training.evaluate --data DIR``: encoded bytes → ``preprocess`` → ``InferenceEngine.predict``.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from model import load_model
from model.inference.engine import InferenceEngine, Precision
from model.preprocess import MAX_IMAGE_PIXELS, preprocess
from training.calibration import calibration_error
from training.data import VAL_FILE, read_encoded

PRETRAINED = Path(__file__).parent.parent / "model" / "pretrained"
SERVED = PRETRAINED / "convnext_atto_tiny_imagenet_200.safetensors"


@dataclass(frozen=True)
class Score:
    """Accuracies and expected calibration error (15 bins), in percent, over ``photos`` photos."""

    top1: float
    top5: float
    calibration_error: float
    photos: int

    def __str__(self) -> str:
        return (
            f"top-1 {self.top1:.2f} %, top-5 {self.top5:.2f} %, "
            f"expected calibration error {self.calibration_error:.2f} % on {self.photos} photos"
        )


def predict_encoded(
    engine: InferenceEngine, photos: Iterable[bytes], top_k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities and class ids ``(N, top_k)`` of encoded photos."""
    transform, size = engine.model.transform, engine.max_batch_size
    images = [preprocess(photo, transform, MAX_IMAGE_PIXELS) for photo in photos]
    results = [engine.predict(images[first : first + size], top_k) for first in range(0, len(images), size)]
    return (
        np.concatenate([result.probabilities for result in results]),
        np.concatenate([result.class_ids for result in results]),
    )


def score(probabilities: NDArray[np.float32], class_ids: NDArray[np.int64], labels: NDArray[np.int64]) -> Score:
    """The score of the likeliest five classes ``(N, 5)``, by falling probability, against the labels ``(N,)``."""
    hits = class_ids == labels[:, None]
    error = calibration_error(probabilities[:, 0], hits[:, 0])
    return Score(100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()), 100 * error, len(labels))


def score_file(path: Path, data_dir: Path, device: str = "cpu", precision: Precision = "auto") -> Score:
    """The score of a checkpoint file on the validation photos of ``data_dir``."""
    engine = InferenceEngine(load_model(path), device=device, precision=precision)
    photos, labels = read_encoded(data_dir / VAL_FILE)
    parts = [predict_encoded(engine, photos[first : first + 512], 5) for first in range(0, len(photos), 512)]
    probabilities, class_ids = (np.concatenate(part) for part in zip(*parts, strict=True))
    return score(probabilities, class_ids, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of val.npz")
    parser.add_argument("--file", type=Path, default=SERVED)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    arguments = parser.parse_args()
    print(score_file(arguments.file, arguments.data, arguments.device, arguments.precision))


if __name__ == "__main__":
    main()
