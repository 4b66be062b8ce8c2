import numpy as np
import pytest
import torch

from training.calibration import calibration_error, fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_temperature_finds_the_temperature_of_sampled_labels(temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20000, 5, generator=generator)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_calibration_error_weights_the_gap_of_each_bin_by_its_size() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5], np.float32)
    correct = np.array([True, True, True, False, True, False])
    assert calibration_error(confidence, correct) == pytest.approx(4 / 6 * 0.15, abs=1e-6)


def test_calibration_error_of_certain_and_correct_predictions_is_zero() -> None:
    assert calibration_error(np.ones(3, np.float32), np.ones(3, bool)) == 0
