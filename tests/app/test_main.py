"""create_app: what the lifespan builds and closes, and what start-up refuses."""

import logging
import threading

import pytest

from app.main import build_engine, create_app
from app.settings import Settings
from model.errors import CheckpointError, EngineError, ModelError

pytestmark = pytest.mark.anyio

PNG = {"content-type": "image/png"}


@pytest.fixture
def settings(tiny_path):
    return Settings(model=str(tiny_path), device="cpu", max_batch_size=2, decode_threads=1)


async def test_an_application_loads_warms_up_answers_and_closes(connect, settings, make_photo, encode):
    before = set(threading.enumerate())
    app = create_app(settings)
    assert app.state.context.service is None  # nothing is built before the start
    async with connect(app) as client:
        answer = (await client.post("/predict?top_k=5", content=encode(make_photo()), headers=PNG)).json()
        described = (await client.get("/model")).json()
        started = [one for one in threading.enumerate() if one.name.startswith(("engine", "decode"))]
    assert answer["model"] == "tiny"
    assert {one["label"] for one in answer["predictions"]} == {"ant", "bee", "cat", "dog", "eel"}
    assert sum(one["probability"] for one in answer["predictions"]) == pytest.approx(1, abs=1e-5)
    assert (described["device"], described["precision"], described["max_batch_size"]) == ("cpu", "float32", 2)
    assert described["licence"] == "CC0-1.0"
    for thread in set(started) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert app.state.context.service.status != "ready"


async def test_the_service_answers_what_the_network_says(connect, settings, tiny_model, make_photo, encode):
    photos = [make_photo(90, 70, seed) for seed in range(4)]
    async with connect(create_app(settings)) as client:
        answers = [
            (await client.post("/predict?top_k=5", content=encode(photo), headers=PNG)).json()["predictions"]
            for photo in photos
        ]
    for photo, answer in zip(photos, answers, strict=True):
        probabilities = tiny_model.network(tiny_model.transform(photo)[None]).softmax(1)[0]
        assert [one["class_id"] for one in answer] == probabilities.argsort(descending=True).tolist()
        for one in answer:
            assert one["probability"] == pytest.approx(probabilities[one["class_id"]].item(), abs=1e-5)
            assert one["label"] == tiny_model.labels[one["class_id"]]


def test_what_was_chosen_is_logged_once(settings, caplog):
    caplog.set_level(logging.INFO)
    engine = build_engine(settings)
    [message] = [record.getMessage() for record in caplog.records if record.name == "app.main"]
    for part in ("tiny", "CC0-1.0", "cpu", "float32", engine.mode, "up to 2"):
        assert part in message


@pytest.mark.parametrize(
    ("change", "error"),
    [({"model": "convnext_tinny"}, CheckpointError), ({"device": "cuda:99"}, EngineError)],
)
async def test_a_start_that_cannot_be_fails(settings, change, error):
    app = create_app(Settings(**settings.model_dump() | change))
    with pytest.raises(error):
        async with app.router.lifespan_context(app):
            pytest.fail("it started")
    assert issubclass(error, ModelError)


def test_labels_may_be_ones_own(settings, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(("one", "two", "three", "four", "five")))
    engine = build_engine(Settings(**settings.model_dump() | {"labels": names}))
    assert engine.model.labels == ("one", "two", "three", "four", "five")


def test_settings_come_from_the_environment_unless_given(monkeypatch):
    monkeypatch.setenv("CONVNEXT_REQUEST_TIMEOUT_S", "7")
    assert create_app().state.context.request_timeout_s == 7
    assert create_app(Settings(request_timeout_s=3)).state.context.request_timeout_s == 3
