import numpy as np
import pytest

from training.evaluate import score


def test_score_counts_correct_labels_among_the_most_probable_classes() -> None:
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [1.0, 0.0]], np.float32)
    class_ids = np.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    result = score(probabilities, class_ids, np.array([0, 1, 2, 1]))
    assert (result.top1, result.top5, result.photos) == (50, 75, 4)
    assert result.calibration_error == pytest.approx(100 * (0.4 + 0.8 + 1.0) / 4, abs=1e-4)
