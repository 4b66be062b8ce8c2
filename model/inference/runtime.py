"""Runtime: what an engine asks of whatever computes the network."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch


class Runtime(Protocol):
    """Computes the folded network; each implementation is one file, ``*_runtime.py``."""

    @property
    def mode(self) -> str:
        """How it computes, as ``/model`` shows it."""
        ...

    @property
    def growth(self) -> int:
        """The factor between one batch size that should run and the next, as each costs a compilation; 1: all may."""
        ...

    def logits(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """``(N, H, W, 3)`` uint8 pixels to ``(N, num_classes)`` logits, on the runtime's device."""
        ...
