"""A server whose engine fails or hangs as told by lines on stdin; it classifies an image by its gray level."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt

from app.http.server import bind, serve
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings
from model import Transform
from model.images.transform import Pixels
from model.inference.engine import InferenceEngine


@dataclass(frozen=True)
class GatedTransform(Transform):
    """Holds every decode thread while ``gate`` is cleared."""

    gate: ClassVar[threading.Event] = threading.Event()

    def __getattribute__(self, name: str) -> object:
        if name == "squash":  # which ``preprocess`` reads before it decodes
            GatedTransform.gate.wait()
        return super().__getattribute__(name)


class FaultyEngine:
    """Returns class v for an image of gray level v, unless an exception or a hang is due."""

    def __init__(self, name: str) -> None:
        labels = tuple(f"gray {level}" for level in range(256))
        self.model = SimpleNamespace(
            name=name,
            family="native",
            licence="CC0-1.0",
            sha256="f" * 64,
            labels=labels,
            transform=GatedTransform(8, 8),
        )
        self.device, self.precision, self.mode = "cpu", "float32", "eager"
        self.input_size, self.num_classes, self.parameters = 8, 256, 1
        self.max_batch_size, self.concurrency = 8, 1
        self.expected_rate = 1000.0
        self.gate = threading.Event()
        self.failures: list[Exception] = []

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """Logits ``(N, 256)`` that fall by log 2 per class, starting at the class of the image."""
        self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        levels = np.array([int(image[0, 0, 0]) for image in images])
        distance = (np.arange(256) - levels[:, None]) % 256
        return np.asarray(-np.log(2) * distance, np.float32)


def obey(engine: FaultyEngine) -> None:
    """Applies each command: ``fail N``, ``oom``, ``hang``, ``stick`` (decoders) or ``release``."""
    for line in sys.stdin:
        match line.split():
            case ["fail", count]:
                engine.failures = [RuntimeError("injected") for _ in range(int(count))]
            case ["oom"]:
                engine.failures = [MemoryError("injected")]
            case ["hang"]:
                engine.gate.clear()
            case ["stick"]:
                GatedTransform.gate.clear()
            case ["release"]:
                engine.gate.set()
                GatedTransform.gate.set()
        print("ok", flush=True)  # noqa: T201 - for the test that waits


def main() -> None:
    """Serves until a signal."""
    settings = Settings()
    engine = FaultyEngine(settings.model)
    engine.gate.set()
    GatedTransform.gate.set()
    threading.Thread(target=obey, args=(engine,), daemon=True).start()
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr)
    with bind(settings.host, settings.port) as listener:
        app = create_app(settings, cast(InferenceEngine, engine))  # a fake with the same attributes
        app.state.context.telemetry.watch_dropped_logs(lambda: logs.dropped)
        serve(
            app,
            listener,
            grace_s=settings.shutdown_grace_s,
            max_connections=settings.max_connections,
            keep_alive_s=settings.keep_alive_s,
        )


if __name__ == "__main__":
    main()
