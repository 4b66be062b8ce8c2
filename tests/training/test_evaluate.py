import numpy as np
import pytest

from model import LoadedModel, load_model
from model.inference.engine import InferenceEngine
from training.evaluate import OTHER_PHOTOS, SERVED, confident_on_others, score, sharp_ranks


def test_score_counts_correct_labels_among_the_most_probable_classes() -> None:
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0], [1.0, 0.0]], np.float32)
    class_ids = np.array([[0, 1], [0, 1], [0, 1], [1, 0]])
    result = score(probabilities, class_ids, np.array([0, 1, 2, 1]))
    assert (result.top1, result.top5, result.photos) == (50, 75, 4)
    assert result.calibration_error == pytest.approx(100 * (0.4 + 0.8 + 1.0) / 4, abs=1e-4)


@pytest.fixture(scope="module")
def served() -> tuple[InferenceEngine, LoadedModel]:
    model = load_model(SERVED)
    return InferenceEngine(model, device="cpu", max_batch_size=8, threads=1), model


def test_sharp_photos_are_ranked_by_their_correct_classes(served: tuple[InferenceEngine, LoadedModel]) -> None:
    ranks = sharp_ranks(*served)
    assert ranks["coffee"][0] == 1
    assert ranks["coffee"][1] > 0.5
    assert all(1 <= rank <= 200 for rank, _ in ranks.values())


def test_a_higher_temperature_makes_more_answers_confident_without_calibration(
    served: tuple[InferenceEngine, LoadedModel],
) -> None:
    plain, same = confident_on_others(*served, temperature=1.0)
    assert plain == same
    assert confident_on_others(*served, temperature=1e3) == (plain, len(OTHER_PHOTOS))
    assert confident_on_others(*served, temperature=1e-3) == (plain, 0)
