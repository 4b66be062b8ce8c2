"""A server whose engine fails or hangs as told by lines on stdin; it classifies an image by its gray level."""

import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt

from app.http.server import Server, bind, serve
from app.http.workers import Worker, WorkerServer, supervise
from app.logs import configure_logging
from app.main import create_app
from app.serving.telemetry import Telemetry
from app.settings import Settings
from model import Transform
from model.images.transform import Pixels
from model.inference.cpu import available_cores
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
            activation="softmax",
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


def run(settings: Settings, listener: socket.socket, worker: Worker | None = None) -> None:
    """Serves until a signal, in a process of its own or as a worker, which gets no commands."""
    engine = FaultyEngine(settings.model)
    engine.gate.set()
    GatedTransform.gate.set()
    number = None if worker is None else worker.number
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr, number)
    if worker is None:
        threading.Thread(target=obey, args=(engine,), daemon=True).start()
    else:
        settings = settings.share(worker.number, available_cores())
    app = create_app(settings, cast(InferenceEngine, engine), Telemetry(worker=number))  # has the same attributes
    app.state.context.telemetry.watch_dropped_logs(lambda: logs.dropped)
    serve(
        app,
        listener,
        grace_s=settings.shutdown_grace_s,
        max_connections=settings.max_connections,
        keep_alive_s=settings.keep_alive_s,
        server_class=Server if worker is None else partial(WorkerServer, worker=worker),
    )


def work(settings: Settings, worker: Worker, channel: socket.socket) -> None:
    """Runs in each worker."""
    run(settings, channel, worker)


def main() -> int:
    """Serves until a signal."""
    settings = Settings()
    with bind(settings.host, settings.port) as listener:
        if settings.workers == 1:
            run(settings, listener)
            return 0
        configure_logging(settings.log_format, settings.log_level, sys.stderr)
        return supervise(listener, settings.workers, partial(work, settings), grace_s=settings.shutdown_grace_s)


if __name__ == "__main__":
    sys.exit(main())
