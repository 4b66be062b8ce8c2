"""mosec: two workers, each of which decodes and classifies a batch."""

import os
from pathlib import Path

from mosec import Server, Worker  # type: ignore[import-not-found]  # only in .venv-mosec

from benchmarks.service.peers.classifier import Classifier, Reply


class Classification(Worker):  # type: ignore[misc]  # as mosec is not installed where types are checked
    """Receives image bodies as they are sent and returns JSON."""

    def __init__(self) -> None:
        self._classifier = Classifier(Path(os.environ["WEIGHTS"]))

    def deserialize(self, data: bytes) -> bytes:
        """Passes on the image, which is the request body itself."""
        return data

    def forward(self, data: list[bytes]) -> list[Reply]:
        """Classifies a batch."""
        return self._classifier.classify(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Classification, num=2, max_batch_size=8, max_wait_time=5)
    server.run()
