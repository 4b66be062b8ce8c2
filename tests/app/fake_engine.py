"""A fake engine whose batches tests can hold and make fail."""

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from model import Transform
from model.head import Activation, HeadWeights
from model.images.jpeg import Pixels
from model.inference.engine import InferenceEngine
from tests.constants import WAIT_S


@dataclass(frozen=True)
class FakeModel:
    """The name and labels of the network."""

    name: str = "fake"
    family: str = "native"
    licence: str = "CC0-1.0"
    sha256: str = "f" * 64
    labels: tuple[str, ...] = tuple(f"grey {level}" for level in range(256))
    activation: Activation = "softmax"
    transform: Transform = field(default_factory=lambda: Transform(8, 8))


class FakeEngine(InferenceEngine):
    """Classifies an image of grey level v as class v. Batches can be held with ``gate``, and fail with ``failures``."""

    model: FakeModel  # type: ignore[assignment]  # what the service reads of a model
    mode, precision, concurrency, expected_rate = "eager", "float32", 1, 0.0

    def __init__(self, max_batch_size: int = 8) -> None:
        self.model = FakeModel()
        self.device, self.precision_reason, self.max_batch_size = torch.device("cpu"), "requested", max_batch_size
        self.input_size, self.num_classes, self.parameters = 8, 256, 1
        self.head = HeadWeights(
            np.ones(4, np.float32),
            np.zeros(4, np.float32),
            1e-6,
            np.eye(256, 4, dtype=np.float32),
            np.zeros(256, np.float32),
        )
        self.batches: list[list[int]] = []
        self.idle: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self._entered = threading.Semaphore(0)

    def predict(self, images: Sequence[Pixels], *, idle: bool = False) -> npt.NDArray[np.float32]:
        """Returns logits ``(N, 256)`` that fall by log 2 per class, starting at the class of the image."""
        levels = [int(image[0, 0, 0]) for image in images]
        self.batches.append(levels)
        self.idle.append(idle)
        self._entered.release()
        assert self.gate.wait(WAIT_S)
        if self.failures:
            raise self.failures.pop(0)
        distance = (np.arange(256) - np.array(levels)[:, None]) % 256  # (N, 256)
        return np.asarray(-np.log(2) * distance, np.float32)

    def predict_with_features(
        self, images: Sequence[Pixels], *, idle: bool = False
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Returns the logits, and feature maps ``(N, 4, 2, 2)`` whose values are the image's level plus 0 to 15."""
        logits = self.predict(images, idle=idle)
        levels = np.array([image[0, 0, 0] for image in images], np.float32).reshape(-1, 1, 1, 1)
        return logits, levels + np.arange(16, dtype=np.float32).reshape(1, 4, 2, 2)

    async def entered(self) -> None:
        """Waits until one more batch has started."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=WAIT_S)
