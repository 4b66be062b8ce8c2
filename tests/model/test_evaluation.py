import numpy as np
import pytest

from model.evaluation import calibration_error, evaluate_sigmoid, evaluate_softmax

LABELS = tuple("abcdef")


def test_evaluates_the_most_probable_classes() -> None:
    probabilities = np.array(
        [
            [0.5, 0.1, 0.1, 0.1, 0.1, 0.1],
            [0.5, 0.3, 0.08, 0.06, 0.04, 0.02],
            [0.5, 0.3, 0.08, 0.06, 0.04, 0.02],
        ],
        np.float32,
    )
    report = evaluate_softmax(probabilities, np.array([0, 1, 5]), LABELS)
    assert report.images == 3
    assert [report.top1, report.top5] == pytest.approx([1 / 3, 2 / 3])
    assert report.calibration_error == pytest.approx(0.5 - 1 / 3)
    assert [(row.label, row.recall) for row in report.worst] == [("b", 0), ("f", 0), ("a", 1)]
    assert {(row.label, row.predicted, row.images) for row in report.confusions} == {("b", "a", 1), ("f", "a", 1)}


def test_evaluates_independent_classes() -> None:
    probabilities = np.array([[0.9, 0.6], [0.2, 0.4], [0.7, 0.1]], np.float32)
    first, second = evaluate_sigmoid(probabilities, np.array([0, 0, 1]), ("a", "b"))
    assert (first.precision, first.recall, first.images) == (0.5, 0.5, 2)
    assert (second.precision, second.recall, second.images) == (0, 0, 1)


def test_nothing_to_divide_by_is_none() -> None:
    [result] = evaluate_sigmoid(np.array([[0.1]], np.float32), np.array([-1]), ("a",))
    assert (result.precision, result.recall) == (None, None)


def test_perfect_calibration_has_no_error() -> None:
    assert calibration_error(np.ones(4, np.float32), np.ones(4, bool)) == 0


def test_calibration_error_weights_the_gap_of_each_bin_by_its_size() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5], np.float32)
    correct = np.array([True, True, True, False, True, False])
    assert calibration_error(confidence, correct) == pytest.approx(4 / 6 * 0.15, abs=1e-6)
