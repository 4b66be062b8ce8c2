"""Calibration of probabilities by temperature scaling."""

import numpy as np
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
