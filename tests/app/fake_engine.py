"""An engine that a test holds in its hand."""

import asyncio
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from model import Transform
from model.inference.engine import TopK

WAIT_S = 20  # more than anything takes; only a failing test waits for so long


class FakeEngine:
    """Answers class v for an image of grey level v; its runs can be held at a gate and made to fail."""

    def __init__(self, max_batch_size: int = 8) -> None:
        self.model = SimpleNamespace(
            name="fake",
            family="native",
            licence="CC0-1.0",
            sha256="f" * 64,
            labels=tuple(f"grey {level}" for level in range(256)),
            transform=Transform(8, 8),
        )
        self.device, self.precision, self.mode = "cpu", "float32", "eager"
        self.input_size, self.num_classes, self.parameters = 8, 256, 1
        self.max_batch_size = max_batch_size
        self.expected_rate = 0.0
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self._entered = threading.Semaphore(0)

    def predict(self, images: Sequence[np.ndarray], top_k: int) -> TopK:
        levels = [int(image[0, 0, 0]) for image in images]
        self.batches.append(levels)
        self._entered.release()
        assert self.gate.wait(WAIT_S)
        if self.failures:
            raise self.failures.pop(0)
        class_ids = (np.array(levels)[:, None] + np.arange(top_k)) % 256
        probabilities = np.tile(0.5 ** np.arange(1, top_k + 1), (len(levels), 1))
        return TopK(probabilities.astype(np.float32), class_ids)

    async def entered(self) -> None:
        """Waits for one more run to begin."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S)
