"""The embedded model, on scikit-image's photos (chelsea and coffee are CC0, rocket is in the public domain)."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from model import load_model
from model.checkpoints.registry import DEFAULT_MODEL
from model.inference.engine import InferenceEngine
from model.preprocess import preprocess

GOLDEN = {  # as they were when it was embedded: the first answer, right for two of them
    data.chelsea: ("Egyptian cat", 0.120),
    data.coffee: ("espresso", 0.982),
    data.rocket: ("beacon", 0.219),
}


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_MODEL)


def test_it_is_small_and_says_what_it_is(model):
    assert model.path.stat().st_size < 10_000_000
    assert (len(model.labels), len(set(model.labels)), model.transform.crop_size) == (200, 200, 224)
    assert model.top1 is not None
    assert "ImageNet" in model.licence


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
@pytest.mark.parametrize("photo", GOLDEN, ids=lambda photo: photo.__name__)
def test_its_answers_do_not_move_unseen(model, photo, runtime):
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "PNG")
    engine = InferenceEngine(model, device="cpu", runtime=runtime, max_batch_size=1, threads=1)
    top = engine.predict([preprocess(buffer.getvalue(), model.transform)], 1)
    label, probability = GOLDEN[photo]
    assert model.labels[int(top.class_ids[0, 0])] == label
    assert top.probabilities[0, 0] == pytest.approx(probability, abs=2e-3)
    assert np.isfinite(top.probabilities).all()
