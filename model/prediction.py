"""Logits to labelled predictions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an image; ``probability`` is of a softmax over all classes."""

    label: str
    class_id: int
    probability: float


def top_predictions(
    logits: npt.NDArray[np.float32], labels: Sequence[str], top_k: int, min_probability: float = 0.0
) -> list[Prediction]:
    """The ``top_k`` most probable classes of one image, highest first, without those below ``min_probability``.

    ``logits`` is ``(num_classes,)``.
    """
    scores = probabilities(logits)
    order = np.argsort(-scores, kind="stable")[:top_k]
    pairs = zip(order.tolist(), scores[order].tolist(), strict=True)
    return [Prediction(labels[i], i, p) for i, p in pairs if p >= min_probability]


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax of ``(num_classes,)`` logits."""
    scores: npt.NDArray[np.float32] = np.exp(logits - logits.max())
    scores /= scores.sum()
    return scores
