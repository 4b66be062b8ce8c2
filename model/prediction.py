"""Logits to labelled predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

ScoreFunction = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class of an image; ``probability`` is of a softmax over all classes, unless another function is asked for."""

    label: str
    class_id: int
    probability: float


def top_predictions(
    scores: npt.NDArray[np.float32], labels: Sequence[str], top_k: int, min_score: float | None = None
) -> list[Prediction]:
    """The ``top_k`` classes with the highest ``scores`` ``(num_classes,)``, highest first; none below ``min_score``.

    Of equal scores, that of the lower class id comes first.
    """
    top_k = min(top_k, len(scores))
    lowest = np.partition(scores, -top_k)[-top_k]
    candidates = np.flatnonzero(scores >= lowest)  # more than top_k if scores are equal
    order = candidates[np.argsort(-scores[candidates], kind="stable")[:top_k]]
    pairs = zip(order.tolist(), scores[order].tolist(), strict=True)
    return [Prediction(labels[i], i, score) for i, score in pairs if min_score is None or score >= min_score]


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax of logits ``(..., num_classes)``."""
    scores: npt.NDArray[np.float32] = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Independent probability of each class, of logits of any shape."""
    scores: npt.NDArray[np.float32] = np.exp(-np.logaddexp(0, -logits))
    return scores
