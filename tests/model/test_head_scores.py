"""Scores and the highest of them, compared with PyTorch."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from model.head import scores, top_predictions

Array = npt.NDArray[np.float32]
LABELS = [f"class {index}" for index in range(1000)]


@pytest.fixture
def logits() -> Array:
    return np.random.default_rng(0).normal(0, 5, (3, 1000)).astype(np.float32)


def test_scores_equal_those_of_pytorch(logits: Array) -> None:
    tensor = torch.from_numpy(logits)
    np.testing.assert_allclose(scores(logits, "softmax"), tensor.softmax(1), rtol=1e-5)
    np.testing.assert_allclose(scores(logits, "sigmoid"), tensor.sigmoid(), rtol=1e-5)
    np.testing.assert_array_equal(scores(logits, "none"), logits)


@pytest.mark.parametrize("top_k", [1, 5, 999, 1000])
def test_the_highest_scores_are_those_of_topk(logits: Array, top_k: int) -> None:
    expected = torch.from_numpy(logits[0]).topk(top_k)
    predictions = top_predictions(logits[0], LABELS, top_k)
    assert [item.class_id for item in predictions] == expected.indices.tolist()
    assert [item.probability for item in predictions] == expected.values.tolist()
    assert [item.label for item in predictions] == [LABELS[item.class_id] for item in predictions]


def test_of_equal_scores_the_lower_class_comes_first() -> None:
    values = np.array([0.1, 0.3, 0.1, 0.3, 0.1, 0.1], np.float32)
    assert [item.class_id for item in top_predictions(values, LABELS[:6], 4)] == [1, 3, 0, 2]
    assert [item.class_id for item in top_predictions(np.zeros(6, np.float32), LABELS[:6], 2)] == [0, 1]


def test_returns_no_more_classes_than_there_are_and_none_below_the_minimum() -> None:
    values = np.array([0.1, 0.6, 0.3], np.float32)
    assert len(top_predictions(values, LABELS[:3], 5)) == 3
    assert [item.class_id for item in top_predictions(values, LABELS[:3], 5, min_score=0.2)] == [1, 2]
