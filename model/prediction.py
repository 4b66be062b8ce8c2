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


def top_predictions(logits: npt.NDArray[np.float32], labels: Sequence[str], top_k: int) -> list[Prediction]:
    """The ``top_k`` most probable classes of one image, highest first; ``logits`` is ``(num_classes,)``."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Prediction(labels[i], i, p) for i, p in zip(order.tolist(), scores[order].tolist(), strict=True)]
