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
    def pads(self) -> bool:
        """Whether only a few batch sizes should run, as each one costs a compilation."""
        ...

    def logits(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """``(N, H, W, 3)`` uint8 pixels to ``(N, num_classes)`` logits, on the runtime's device."""
        ...
