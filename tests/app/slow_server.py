"""``slow_server GATE GRACE_S``: a server in a process of its own whose engine holds each run until a file appears."""

import sys
import time
from pathlib import Path

from app.main import create_app
from app.server import bind, serve
from app.serving.logs import configure_logging
from app.settings import Settings
from tests.app.fake_engine import FakeEngine


class HeldEngine(FakeEngine):
    """Says when a run begins, and ends it when the gate's file is there."""

    def __init__(self, gate_file: Path) -> None:
        super().__init__()
        self._gate_file = gate_file

    def predict(self, images):
        print("running", flush=True)  # noqa: T201 - for the test that listens
        while not self._gate_file.exists():
            time.sleep(0.005)  # between two processes there is no event
        return super().predict(images)


if __name__ == "__main__":
    configure_logging("text", "info", sys.stderr)
    settings = Settings(decode_threads=1, shutdown_grace_s=float(sys.argv[2]))
    with bind("127.0.0.1", 0) as listener:
        app = create_app(settings, HeldEngine(Path(sys.argv[1])))
        serve(app, listener, grace_s=settings.shutdown_grace_s, max_connections=100)
