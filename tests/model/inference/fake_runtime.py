"""A runtime that fails on request."""

import numpy as np
import numpy.typing as npt
import torch

from model.inference.runtime import Outputs


class FakeRuntime:
    """Returns logits that depend on the image; has memory for at most ``room`` images."""

    def __init__(self, batch_size_step: int = 1, room: int = 1000, concurrency: int = 1) -> None:
        self.mode, self.batch_size_step, self.concurrency = "fake", batch_size_step, concurrency
        self.room = room
        self.sizes: list[int] = []
        self.idle: list[bool] = []
        self.error: Exception | None = None

    def tune(self, images: npt.NDArray[np.uint8], decode_s: float) -> None:
        pass

    def run(self, images: npt.NDArray[np.uint8], *, idle: bool, features: bool = False) -> Outputs:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        self.sizes.append(len(images))
        self.idle.append(idle)
        if len(images) > self.room:
            raise torch.OutOfMemoryError("no room")
        if self.error is not None:
            raise self.error
        first = images[:, 0, 0, 0].astype(np.float32)
        zeros = np.zeros_like(first)
        logits = np.stack([first, 255 - first, zeros, zeros, zeros], axis=1) / np.float32(50)
        return Outputs(logits, first.reshape(-1, 1, 1, 1) if features else None)
