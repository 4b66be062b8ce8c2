"""Scores a checkpoint on the validation photos through the serving path: ``python -m training.evaluate --data DIR``."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from model import load_model
from model.head import Prediction, probabilities, top_predictions
from model.images.transform import preprocess
from model.inference.engine import InferenceEngine, Precision
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


def score(probabilities: NDArray[np.float32], class_ids: NDArray[np.int64], labels: NDArray[np.int64]) -> Score:
    """Scores the five most probable classes ``(N, 5)``, highest first, against the labels ``(N,)``."""
    hits = class_ids == labels[:, None]
    error = calibration_error(probabilities[:, 0], hits[:, 0])
    return Score(100 * float(hits[:, 0].mean()), 100 * float(hits.any(1).mean()), 100 * error, len(labels))


def score_file(path: Path, data_dir: Path, device: str = "cpu", precision: Precision = "auto") -> Score:
    """Scores a checkpoint file on the validation photos of ``data_dir``."""
    model = load_model(path)
    engine = InferenceEngine(model, device=device, precision=precision)
    photos, labels = read_encoded(data_dir / VAL_FILE)
    results: list[list[Prediction]] = []
    for first in range(0, len(photos), engine.max_batch_size):
        batch = photos[first : first + engine.max_batch_size]
        logits = engine.predict([preprocess(photo, model.transform) for photo in batch])  # (N, num_classes)
        results += [top_predictions(row, model.labels, 5) for row in probabilities(logits)]
    scores = np.array([[item.probability for item in result] for result in results], np.float32)
    return score(scores, np.array([[item.class_id for item in result] for result in results]), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with val.npz")
    parser.add_argument("--file", type=Path, default=SERVED, help="checkpoint to measure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    arguments = parser.parse_args()
    print(score_file(arguments.file, arguments.data, arguments.device, arguments.precision))


if __name__ == "__main__":
    main()
