"""Runtime: what an engine needs of a library that runs the network."""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Outputs(NamedTuple):
    """What the network computes of a batch."""

    logits: npt.NDArray[np.float32]  # (N, num_classes)
    features: npt.NDArray[np.float32] | None  # (N, K, H, W), the last feature map, if asked for


class Runtime(Protocol):
    """Runs the folded network; each implementation is one file, ``*_runtime.py``."""

    @property
    def mode(self) -> str:
        """How it runs the network, as shown by ``/model``."""
        ...

    @property
    def batch_size_step(self) -> int:
        """The factor between two batch sizes that should be used, as each is compiled; 1 if all may be used."""
        ...

    @property
    def concurrency(self) -> int:
        """How many threads may call ``run`` at the same time; known after ``tune``."""
        ...

    def tune(self, images: npt.NDArray[np.uint8], decode_s: float) -> None:
        """Chooses how to run batches as large as ``images`` by measurement; decoding takes ``decode_s`` per image."""
        ...

    def run(self, images: npt.NDArray[np.uint8], *, idle: bool, features: bool = False) -> Outputs:
        """Computes ``(N, H, W, 3)`` uint8 pixels; ``idle`` if nothing else is running."""
        ...
