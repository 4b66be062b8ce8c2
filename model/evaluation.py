"""Accuracy, calibration and confusions of predictions on labelled images; pure computations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

NO_LABEL = -1
_BINS = 15
_SHOWN = 10


@dataclass(frozen=True)
class ClassResult:
    """One class: the number of its images, and the share of them whose most probable class it is (recall)."""

    label: str
    images: int
    recall: float


@dataclass(frozen=True)
class Confusion:
    """How often another class was the most probable one for images of a class."""

    label: str
    predicted: str
    images: int


@dataclass(frozen=True)
class SoftmaxReport:
    """Shares from 0 to 1. ``worst`` starts with the lowest recall, ``confusions`` with the most frequent one."""

    images: int
    top1: float
    top5: float
    calibration_error: float
    worst: tuple[ClassResult, ...]
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class LabelResult:
    """Precision and recall of one label at a threshold of 0.5; None where there is nothing to divide by."""

    label: str
    images: int
    precision: float | None
    recall: float | None


def evaluate_softmax(probabilities: Array, truth: Indices, labels: Sequence[str]) -> SoftmaxReport:
    """The report on probabilities ``(N, num_classes)`` of images whose classes are ``truth`` ``(N,)``.

    The expected calibration error is over 15 equal intervals of the top probability (Guo et al., ICML 2017).
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # (N, 5)
    hits = order == truth[:, None]
    first = order[:, 0]
    return SoftmaxReport(
        images=len(truth),
        top1=float(hits[:, 0].mean()),
        top5=float(hits.any(1).mean()),
        calibration_error=calibration_error(probabilities.max(1), hits[:, 0]),
        worst=_worst(first, truth, labels),
        confusions=_confusions(first, truth, labels),
    )


def evaluate_sigmoid(probabilities: Array, truth: Indices, labels: Sequence[str]) -> tuple[LabelResult, ...]:
    """Precision and recall of each label for images that have the one label ``truth`` ``(N,)``, or ``NO_LABEL``."""
    results = []
    for index, label in enumerate(labels):
        predicted, actual = probabilities[:, index] >= 0.5, truth == index
        both = int((predicted & actual).sum())
        results.append(LabelResult(label, int(actual.sum()), _ratio(both, predicted.sum()), _ratio(both, actual.sum())))
    return tuple(results)


def calibration_error(confidence: Array, correct: npt.NDArray[np.bool_]) -> float:
    """The expected calibration error of top probabilities ``(N,)``, from 0 to 1."""
    interval = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(interval, weights=confidence - correct, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _ratio(part: int, whole: np.int64) -> float | None:
    return part / int(whole) if whole else None


def _worst(first: Indices, truth: Indices, labels: Sequence[str]) -> tuple[ClassResult, ...]:
    classes, counts = np.unique(truth, return_counts=True)
    results = [
        ClassResult(labels[index], int(count), float((first[truth == index] == index).mean()))
        for index, count in zip(classes.tolist(), counts, strict=True)
    ]
    return tuple(sorted(results, key=lambda item: item.recall)[:_SHOWN])


def _confusions(first: Indices, truth: Indices, labels: Sequence[str]) -> tuple[Confusion, ...]:
    wrong = first != truth
    pairs, counts = np.unique(np.stack([truth[wrong], first[wrong]], 1), axis=0, return_counts=True)
    found = [Confusion(labels[a], labels[b], int(n)) for (a, b), n in zip(pairs.tolist(), counts, strict=True)]
    return tuple(sorted(found, key=lambda item: -item.images)[:_SHOWN])
