"""A server whose engine fails or hangs as told by lines on stdin; it classifies an image by its gray level."""

import socket
import sys
import threading
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from app.http.server import Server, allow_connections, bind, serve
from app.http.workers import Worker, WorkerServer, supervise
from app.logs import configure_logging
from app.main import create_app
from app.serving.telemetry import Telemetry
from app.settings import Settings
from model import Transform
from model.inference.cpu import available_cores
from tests.app.fake_engine import FakeEngine, FakeModel


@dataclass(frozen=True)
class GatedTransform(Transform):
    """Holds every decode thread while ``gate`` is cleared."""

    gate: ClassVar[threading.Event] = threading.Event()

    def __getattribute__(self, name: str) -> object:
        if name == "squash":  # which ``preprocess`` reads before it decodes
            GatedTransform.gate.wait()
        return super().__getattribute__(name)


def obey(engine: FakeEngine) -> None:
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


def run(settings: Settings, listener: socket.socket, worker: Worker | None = None) -> int:
    """Serves until a signal or a failure, in a process of its own or as a worker, which gets no commands."""
    engine = FakeEngine()
    engine.model = FakeModel(settings.model, transform=GatedTransform(8, 8))
    engine.expected_rate = 1000.0
    GatedTransform.gate.set()
    number = None if worker is None else worker.number
    logs = configure_logging(settings.log_format, settings.log_level, sys.stderr, number)
    if worker is None:
        threading.Thread(target=obey, args=(engine,), daemon=True).start()
    else:
        settings = settings.share(worker.number, available_cores())
    app = create_app(settings, engine, Telemetry(worker=number))
    app.state.context.telemetry.watch_dropped_logs(lambda: logs.dropped)
    server = (Server if worker is None else partial(WorkerServer, worker=worker))(
        app,
        grace_s=settings.shutdown_grace_s,
        max_connections=allow_connections(settings.max_connections),
        keep_alive_s=settings.keep_alive_s,
    )
    return serve(server, listener)


def work(settings: Settings, worker: Worker, channel: socket.socket) -> None:
    """Runs in each worker."""
    run(settings, channel, worker)


def main() -> int:
    """Serves until a signal."""
    settings = Settings()
    with bind(settings.host, settings.port) as listener:
        if settings.workers == 1:
            return run(settings, listener)
        configure_logging(settings.log_format, settings.log_level, sys.stderr)
        return supervise(listener, settings.workers, partial(work, settings), grace_s=settings.shutdown_grace_s)


if __name__ == "__main__":
    sys.exit(main())
