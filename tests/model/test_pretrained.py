"""The embedded model, on photos of scikit-image (chelsea and coffee are CC0, rocket is in the public domain)."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from model import DEFAULT_MODEL, LoadedModel, load_model
from model.head import scores, top_predictions
from model.images.transform import preprocess
from model.inference.engine import InferenceEngine, RuntimeName

SAMPLE_FOLDER = Path(__file__).parents[2] / "app" / "api" / "static" / "samples"
Photo = Callable[[], NDArray[np.uint8]]
GOLDEN: dict[Photo, tuple[str, float]] = {  # most probable label and its probability; rocket's is wrong
    data.chelsea: ("tabby", 0.144),
    data.coffee: ("espresso", 0.998),
    data.rocket: ("obelisk", 0.505),
}
SAMPLES = {"coffee": {"espresso"}}  # of the web page


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(DEFAULT_MODEL)


def test_embedded_model_is_small_and_describes_itself(model: LoadedModel) -> None:
    assert model.path.stat().st_size < 10_000_000
    assert (len(model.labels), len(set(model.labels)), model.transform.crop_size) == (200, 200, 224)
    assert model.top1 is not None
    assert model.licence is not None
    assert "ImageNet" in model.licence


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
@pytest.mark.parametrize("photo", GOLDEN, ids=lambda photo: photo.__name__)
def test_predictions_do_not_change(model: LoadedModel, photo: Photo, runtime: RuntimeName) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo()).save(buffer, "PNG")
    engine = InferenceEngine(model, device="cpu", runtime=runtime, max_batch_size=1, threads=1)
    [logits] = engine.predict([preprocess(buffer.getvalue(), model.transform)])
    [prediction] = top_predictions(scores(logits, "softmax"), model.labels, 1)
    label, probability = GOLDEN[photo]
    assert prediction.label == label
    assert prediction.probability == pytest.approx(probability, abs=5e-3)


def test_every_sample_of_the_page_is_recognized(model: LoadedModel) -> None:
    photos = {path.stem: path.read_bytes() for path in SAMPLE_FOLDER.glob("*.jpg")}
    assert photos.keys() == SAMPLES.keys()
    engine = InferenceEngine(model, device="cpu", max_batch_size=1, threads=1)
    for name, photo in photos.items():
        [logits] = engine.predict([preprocess(photo, model.transform)])
        [prediction] = top_predictions(scores(logits, "softmax"), model.labels, 1)
        assert prediction.label in SAMPLES[name]
