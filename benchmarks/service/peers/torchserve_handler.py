"""TorchServe: the handler that its two workers run on each batch."""

import os
from pathlib import Path

from benchmarks.service.peers.classifier import Classifier, Reply


class Classification:
    """TorchServe calls ``initialize`` once and ``handle`` with the requests of a batch."""

    def initialize(self, _context: object) -> None:
        """Loads the network."""
        self._classifier = Classifier(Path(os.environ["WEIGHTS"]))

    def handle(self, data: list[dict[str, bytearray]], _context: object) -> list[Reply]:
        """Classifies a batch of request bodies."""
        return self._classifier.classify([bytes(request["body"]) for request in data])
