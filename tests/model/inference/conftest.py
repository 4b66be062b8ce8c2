"""An engine on a fake runtime."""

from collections.abc import Callable
from typing import Any

import pytest

from model import LoadedModel
from model.inference.engine import InferenceEngine
from tests.model.inference.fake_runtime import FakeRuntime

EngineOn = Callable[..., InferenceEngine]


@pytest.fixture
def engine_on(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> EngineOn:
    """``engine_on(runtime, **options)``: an engine whose network is run by a fake."""

    def build(runtime: FakeRuntime, **options: Any) -> InferenceEngine:  # Any: the engine's keyword arguments
        for name in ("TorchRuntime", "OpenVinoRuntime"):
            monkeypatch.setattr(f"model.inference.engine.{name}", lambda *_arguments, **_options: runtime)
        return InferenceEngine(tiny_model, device="cpu", **options)

    return build
