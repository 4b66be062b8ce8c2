"""Calibration of probabilities: temperature scaling and the expected calibration error."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Returns the temperature from 0.1 to 10 that minimizes the negative log-likelihood of ``softmax(logits / t)``.

    ``logits (N, K)``, ``labels (N,)``. Guo et al., ICML 2017.
    """
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(nn.functional.cross_entropy(logits / np.exp(log_temperature), labels))

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.1, 10.0]), method="bounded").x))


def calibration_error(confidence: NDArray[np.float32], correct: NDArray[np.bool_], bins: int = 15) -> float:
    """Returns the expected calibration error over ``bins`` equal intervals of the top-1 confidence, both ``(N,)``."""
    interval = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(interval, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
