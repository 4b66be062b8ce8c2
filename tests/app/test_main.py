"""create_app: what the lifespan builds and closes, and which settings prevent the start."""

import logging
import threading
from pathlib import Path

import pytest

from app.main import build_engine, create_app
from app.settings import Settings
from model.errors import CheckpointError, EngineError, ModelError
from tests.app.api.asgi import PNG, context_of
from tests.app.types import Connect
from tests.conftest import Encode, MakePhoto

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tiny_path: Path) -> Settings:
    return Settings(model=str(tiny_path), device="cpu", precision="float32", max_batch_size=2, decode_threads=1)


async def test_the_lifespan_loads_the_model_serves_it_and_stops_its_threads(
    connect: Connect, settings: Settings, make_photo: MakePhoto, encode: Encode
) -> None:
    before = set(threading.enumerate())
    app = create_app(settings)
    context = context_of(app)
    service_before = context.service
    async with connect(app) as client:
        result = (await client.post("/predict?top_k=5", content=encode(make_photo()), headers=PNG)).json()
        model = (await client.get("/model")).json()
        started = [thread for thread in threading.enumerate() if thread.name.startswith(("engine", "decode"))]
    assert result["model"] == "tiny"
    assert {item["label"] for item in result["predictions"]} == {"ant", "bee", "cat", "dog", "eel"}
    assert sum(item["probability"] for item in result["predictions"]) == pytest.approx(1, abs=1e-5)
    assert (model["device"], model["precision"], model["max_batch_size"]) == ("cpu", "float32", 2)
    assert model["licence"] == "CC0-1.0"
    for thread in set(started) - before:
        thread.join(20)
        assert not thread.is_alive()
    assert service_before is None
    assert context.service is not None
    assert context.service.status != "ready"


def test_logs_the_model_and_how_it_is_run_once(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = build_engine(settings)
    [record] = [record for record in caplog.records if record.name == "app.main"]
    assert isinstance(record.args, tuple)
    assert {"tiny", "CC0-1.0", engine.device, "float32", engine.mode, 2} <= set(record.args)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"model": "convnext_tinny"}, CheckpointError), ({"device": "cuda:99"}, EngineError)],
)
async def test_startup_fails_if_the_model_or_device_is_not_available(
    settings: Settings, change: dict[str, str], error: type[ModelError]
) -> None:
    app = create_app(settings.model_copy(update=change))
    with pytest.raises(error):
        async with app.router.lifespan_context(app):
            pytest.fail("the application started")
