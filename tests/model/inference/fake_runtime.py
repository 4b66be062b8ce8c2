"""A runtime that fails on request."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch

from model.images.transform import Pixels
from model.inference.runtime import Outputs, stacked


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("no room")


class FakeRuntime:
    """Returns logits that depend on the image; has memory for at most ``room`` images, in all batches together."""

    def __init__(self, batch_size_step: int = 1, room: int = 1000, concurrency: int = 1) -> None:
        self.mode, self.batch_size_step, self.concurrency = "fake", batch_size_step, concurrency
        self.room = room
        self.tuning_room = 1000
        self.no_room: Callable[[], Exception] = out_of_memory
        self.sizes: list[int] = []
        self.idle: list[bool] = []
        self.tuned: list[list[int]] = []
        self.run_before_tuning: list[int] = []  # the sizes
        self.threads: set[int] = set()  # that have run batches
        self.tuned_on = 0  # the thread
        self.error: Exception | None = None
        self.dtype: torch.dtype | None = None  # that it was built with
        self.value = 0.0  # added to all logits
        self.overflowing_size = 0  # of batches whose logits are infinite
        self.batch_s = 0.0  # how long a batch takes
        self.barrier: threading.Barrier | None = None  # of batches that run at the same time
        self._lock = threading.Lock()
        self._in_use = 0

    def _meet(self) -> None:
        if self.barrier is not None:
            self.barrier.wait(timeout=10)

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        assert len(images) == sizes[-1]
        self.tuned.append(list(sizes))
        self.tuned_on = threading.get_ident()
        self.run_before_tuning = self.run_before_tuning or list(self.sizes)
        if sizes[-1] > self.tuning_room:
            raise self.no_room()

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        batch = stacked(images, size)
        assert batch.dtype == np.uint8
        with self._lock:
            self.threads.add(threading.get_ident())
            self.sizes.append(size)
            self.idle.append(idle)
            self._in_use += size
        try:
            threading.Event().wait(self.batch_s)
            self._meet()
            too_large = self._in_use > self.room
            self._meet()
            if too_large:
                raise self.no_room()
            if self.error is not None:
                raise self.error
        finally:
            with self._lock:
                self._in_use -= size
        first = batch[: len(images), 0, 0, 0].astype(np.float32)
        zeros = np.zeros_like(first)
        logits = np.stack([first, 255 - first, zeros, zeros, zeros], axis=1) / np.float32(50)
        value = np.inf if size == self.overflowing_size else self.value
        return Outputs(logits + np.float32(value), first.reshape(-1, 1, 1, 1) if features else None)
