"""Scores a checkpoint on the validation photos through the serving path: ``python -m training.evaluate --data DIR``."""

import argparse
import io
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from skimage import data

from model import LoadedModel, load_model
from model.evaluation import SoftmaxReport, evaluate_softmax
from model.head import scores, top_predictions
from model.images.transform import preprocess
from model.inference.engine import InferenceEngine, Precision
from training.data import VAL_FILE, read_encoded

PRETRAINED = Path(__file__).parent.parent / "model" / "pretrained"
# Photos of scikit-image: sharp ones with the names of their classes, and pictures of none of the classes.
SHARP_PHOTOS = {"chelsea": {"Egyptian cat", "tabby"}, "coffee": {"espresso"}, "rocket": {"projectile"}}
OTHER_PHOTOS = (
    *("astronaut", "brick", "camera", "cell", "coins", "grass", "gravel", "hubble_deep_field", "immunohistochemistry"),
    *("microaneurysms", "moon", "page", "retina", "stereo_motorcycle", "text"),
)
SERVED = PRETRAINED / "convnext_atto_tiny_imagenet_200.safetensors"


def predict(engine: InferenceEngine, model: LoadedModel, photos: Sequence[bytes]) -> NDArray[np.float32]:
    """Returns the logits ``(N, num_classes)`` of encoded photos."""
    batches = [photos[first : first + engine.max_batch_size] for first in range(0, len(photos), engine.max_batch_size)]
    return np.concatenate(
        [engine.predict([preprocess(photo, model.transform) for photo in batch]) for batch in batches]
    )


def score_validation(engine: InferenceEngine, model: LoadedModel, data_dir: Path) -> SoftmaxReport:
    """Scores a model on the validation photos of ``data_dir``."""
    photos, truth = read_encoded(data_dir / VAL_FILE)
    return evaluate_softmax(scores(predict(engine, model, photos), "softmax"), truth, model.labels)


def summary(report: SoftmaxReport) -> str:
    """The figures of the model card."""
    return (
        f"top-1 {report.top1:.2%}, top-5 {report.top5:.2%}, "
        f"expected calibration error {report.calibration_error:.2%} on {report.images} photos"
    )


def sharp_ranks(engine: InferenceEngine, model: LoadedModel) -> dict[str, tuple[int, float]]:
    """Returns the best rank, from 1, of a correct class of each sharp photo, and the probability of these classes."""
    found = {}
    for name, row in zip(SHARP_PHOTOS, predict(engine, model, list(map(_encode, SHARP_PHOTOS))), strict=True):
        ranked = top_predictions(scores(row, "softmax"), model.labels, len(model.labels))
        correct = [rank for rank, item in enumerate(ranked, 1) if item.label in SHARP_PHOTOS[name]]
        found[name] = correct[0], sum(ranked[rank - 1].probability for rank in correct)
    return found


def confident_on_others(engine: InferenceEngine, model: LoadedModel, temperature: float) -> tuple[int, int]:
    """Returns how many of ``OTHER_PHOTOS`` have a class of at least 50 %, as served and without the calibration.

    The served logits are the network's logits divided by ``temperature``.
    """
    logits = predict(engine, model, list(map(_encode, OTHER_PHOTOS)))
    served, uncalibrated = (scores(logits * factor, "softmax").max(1) >= 0.5 for factor in (1.0, temperature))
    return int(served.sum()), int(uncalibrated.sum())


def _encode(name: str) -> bytes:
    loaded = getattr(data, name)()
    buffer = io.BytesIO()
    Image.fromarray(loaded[0] if isinstance(loaded, tuple) else loaded).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def report(path: Path, data_dir: Path, device: str = "cpu", precision: Precision = "auto") -> str:
    """Returns the figures of the model card for a checkpoint file, one a line."""
    model = load_model(path)
    engine = InferenceEngine(model, device=device, precision=precision)
    with safe_open(path, "pt") as file:
        temperature = float(file.metadata()["temperature"])
    served, uncalibrated = confident_on_others(engine, model, temperature)
    lines = [f"validation photos: {summary(score_validation(engine, model, data_dir))}"]
    for name, (rank, probability) in sharp_ranks(engine, model).items():
        lines.append(f"sharp photo {name}: correct class at rank {rank}, {probability:.1%}")
    lines.append(
        f"photos of other things with a class of at least 50 %: {served} of {len(OTHER_PHOTOS)}, "
        f"{uncalibrated} without calibration (temperature {temperature})"
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with val.npz")
    parser.add_argument("--file", type=Path, default=SERVED, help="checkpoint to measure")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    arguments = parser.parse_args()
    print(report(arguments.file, arguments.data, arguments.device, arguments.precision))


if __name__ == "__main__":
    main()
