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
    logits: npt.NDArray[np.float32],
    labels: Sequence[str],
    top_k: int,
    min_probability: float = 0.0,
    function: ScoreFunction = "softmax",
) -> list[Prediction]:
    """The ``top_k`` most probable classes of one image, highest first, without those below ``min_probability``.

    ``logits`` is ``(num_classes,)``; ``function`` none leaves them as they are.
    """
    scores = _scores(logits, function)
    order = np.argsort(-scores, kind="stable")[:top_k]
    pairs = zip(order.tolist(), scores[order].tolist(), strict=True)
    return [Prediction(labels[i], i, p) for i, p in pairs if not min_probability or p >= min_probability]


def probabilities(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Softmax of ``(num_classes,)`` logits."""
    scores: npt.NDArray[np.float32] = np.exp(logits - logits.max())
    scores /= scores.sum()
    return scores


def _scores(logits: npt.NDArray[np.float32], function: ScoreFunction) -> npt.NDArray[np.float32]:
    match function:
        case "softmax":
            return probabilities(logits)
        case "sigmoid":
            scores: npt.NDArray[np.float32] = np.exp(-np.logaddexp(0, -logits))
            return scores
        case "none":
            return logits
