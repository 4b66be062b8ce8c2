"""``worker_server WORKERS GRACE_S PIPE [WHAT [NUMBER]]``: workers with a fake engine that gray levels control.

``held`` holds the start of worker NUMBER, or of all, until somebody has written to the pipe; ``killed`` kills all.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.http.server import bind, serve
from app.http.workers import Worker, WorkerServer, supervise
from app.logs import configure_logging

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from model.images.jpeg import Pixels

HOLD, BREAK, LOSE = (
    200,
    201,
    202,
)  # until somebody has written to the pipe; this and all later batches fail; lost device


def work(count: int, grace_s: float, pipe: Path, what: str, worker: Worker, channel: socket.socket) -> None:
    """Runs in each worker."""
    print(f"worker {worker.number} is process {os.getpid()}", flush=True)  # noqa: T201 - read by the test
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what in ("held", f"held {worker.number}"):
        pipe.read_text()
    # Imports torch, which takes seconds.
    from app.main import create_app
    from app.serving.telemetry import Telemetry
    from app.settings import Settings
    from model.errors import DeviceLost
    from tests.app.fake_engine import FakeEngine

    class Engine(FakeEngine):
        broken = False

        def predict(self, images: "Sequence[Pixels]", *, idle: bool = False) -> "npt.NDArray[np.float32]":
            levels = {int(image[0, 0, 0]) for image in images}
            if HOLD in levels:
                print(f"worker {worker.number} holds", flush=True)  # noqa: T201 - read by the test
                pipe.read_text()
            if LOSE in levels:
                raise DeviceLost("injected")
            self.broken = self.broken or BREAK in levels
            if self.broken:
                raise RuntimeError("injected")
            return super().predict(images, idle=idle)

    configure_logging("text", "info", sys.stderr, worker.number)
    settings = Settings(decode_threads=1, workers=count, request_timeout_s=300).share(worker.number, 1)
    app = create_app(settings, Engine(), Telemetry(worker=worker.number))
    serve(WorkerServer(app, worker=worker, grace_s=grace_s, max_connections=100, keep_alive_s=75), channel)


def main() -> int:
    """Serves until a signal."""
    configure_logging("text", "info", sys.stderr)
    count, grace_s, pipe, what = int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]), " ".join(sys.argv[4:])
    with bind("127.0.0.1", 0) as listener:
        return supervise(listener, count, partial(work, count, grace_s, pipe, what), grace_s=grace_s)


if __name__ == "__main__":
    sys.exit(main())
