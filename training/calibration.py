"""How well probabilities keep their word: temperature, and the expected calibration error."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the negative log-likelihood of ``softmax(logits / t)`` (Guo et al., ICML 2017).

    ``logits (N, K)``, ``labels (N,)``. Searched on a logarithmic scale from 0.1 to 10; the loss has one minimum.
    """
    low, high = np.log(0.1), np.log(10.0)
    logits = logits.double()

    def loss(log_t: float) -> float:
        return float(nn.functional.cross_entropy(logits / np.exp(log_t), labels))

    golden = (5**0.5 - 1) / 2
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error over ``bins`` equal intervals of the top-1 confidence; both ``(N,)``."""
    interval = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(interval, minlength=bins)
    gaps = np.abs(
        np.bincount(interval, weights=confidence, minlength=bins)
        - np.bincount(interval, weights=correct.astype(float), minlength=bins)
    )
    return float(gaps.sum() / counts.sum())
