import pytest

from model import LoadedModel, load_model
from model.inference.engine import InferenceEngine
from training.evaluate import OTHER_PHOTOS, SERVED, confident_on_others, sharp_ranks


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
