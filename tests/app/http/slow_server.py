"""``slow_server GRACE_S``: a server whose fake engine holds every batch until standard input is closed."""

import sys
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from app.http.server import Server, bind, serve
from app.logs import configure_logging
from app.main import create_app
from app.settings import Settings
from model.errors import DeviceLost
from model.images.transform import Pixels
from tests.app.fake_engine import FakeEngine

LOSE = 202  # the gray level of an image with which the device is lost


class HeldEngine(FakeEngine):
    """Prints a line when a batch starts, and completes no batch before standard input is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.gate.clear()
        threading.Thread(target=self._open_at_end_of_input, daemon=True).start()

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """As ``FakeEngine``."""
        if images[0][0, 0, 0] == LOSE:
            raise DeviceLost("injected")
        print("running", flush=True)  # noqa: T201 - read by the test
        return super().predict(images)

    def _open_at_end_of_input(self) -> None:
        sys.stdin.read()
        self.gate.set()


if __name__ == "__main__":
    configure_logging("text", "info", sys.stderr)
    settings = Settings(decode_threads=1, shutdown_grace_s=float(sys.argv[1]))
    with bind("127.0.0.1", 0) as listener:
        app = create_app(settings, HeldEngine())
        server = Server(app, grace_s=settings.shutdown_grace_s, max_connections=100, keep_alive_s=75)
        sys.exit(serve(server, listener))
