"""Runtime: the engine's interface to a library that runs the network."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from model.images.transform import Pixels


class Outputs(NamedTuple):
    """The outputs of the network for a batch."""

    logits: npt.NDArray[np.float32]  # (N, num_classes)
    features: npt.NDArray[np.float32] | None  # (N, K, H, W), the last feature map, if asked for


class Runtime(Protocol):
    """Runs the folded network; each implementation is one file, ``*_runtime.py``."""

    @property
    def mode(self) -> str:
        """How it runs the network, as shown by ``/model``; known after ``tune``."""
        ...

    @property
    def batch_size_step(self) -> int:
        """The factor between two batch sizes that should be used, as each is compiled; 1 if all may be used."""
        ...

    @property
    def concurrency(self) -> int:
        """How many threads may call ``run`` at the same time; known after ``tune``."""
        ...

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """Chooses by measurement how to run batches of ``sizes``, in ascending order; there are ``sizes[-1]`` images.

        Decoding takes ``decode_s`` per image. The smallest and the largest size have been run before. May be called
        again, with fewer sizes.
        """
        ...

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8 as a batch of ``size`` ≥ N; ``idle`` if nothing else is running."""
        ...


def join(parts: Sequence[Outputs]) -> Outputs:
    """The outputs of consecutive batches as those of one."""
    if len(parts) == 1:
        return parts[0]
    maps = [part.features for part in parts if part.features is not None]
    return Outputs(np.concatenate([part.logits for part in parts]), np.concatenate(maps) if maps else None)


def stacked(images: Sequence[Pixels], size: int) -> npt.NDArray[np.uint8]:
    """A new batch ``(size, H, W, 3)`` of ``images``; the rest is black."""
    batch = np.empty((size, *images[0].shape), np.uint8)
    np.stack(images, out=batch[: len(images)])
    batch[len(images) :] = 0
    return batch
