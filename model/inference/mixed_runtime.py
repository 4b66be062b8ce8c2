"""MixedRuntime: bfloat16 where it cannot change the most probable class, float32 where it could."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from model.images.transform import Pixels
from model.inference.runtime import Outputs, Runtime, join

_MARGIN = 2.0  # between the two highest logits, as a multiple of the RMS error of a logit
_NEW_SHARE_WEIGHT = 0.1  # of a batch
_FORGETTING = 0.99  # per batch without a new share, so that about every tenth one is tried with ``fast``


class MixedRuntime:
    """Computes all images with ``fast``, and again with ``exact`` those whose two highest logits are close.

    Feature maps always come from ``exact``, which runs single images only, so that it holds few copies of the weights.
    ``fast`` is ``speedup`` times as fast. While so many images are close that it saves no time, ``exact`` runs all.
    Both runtimes are tuned; the error of ``fast`` is measured on ``images``, at most as many as its largest batch.
    There are at least two classes.
    """

    def __init__(self, fast: Runtime, exact: Runtime, images: Sequence[Pixels], speedup: float) -> None:
        self._fast = fast
        self._exact = exact
        self._worthwhile_share = 1 - 1 / speedup
        self._close_share = 0.0  # of the images, a moving average
        logits = fast.run(images, len(images), idle=False).logits
        exact_logits = join([self._run_exact(image, idle=False) for image in images]).logits
        self.margin = _MARGIN * float(np.sqrt(np.mean(np.square(logits - exact_logits))))

    @property
    def mode(self) -> str:
        """How the network is run."""
        return self._fast.mode

    @property
    def batch_size_step(self) -> int:
        """The factor between two batch sizes of ``fast``."""
        return self._fast.batch_size_step

    @property
    def concurrency(self) -> int:
        """How many threads may call ``run`` at the same time."""
        return self._fast.concurrency

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """Tunes ``fast`` for batches of ``sizes``."""
        self._fast.tune(images, sizes, decode_s)

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8; without feature maps as a batch of ``size``."""
        if features or self._close_share > self._worthwhile_share:
            self._close_share *= _FORGETTING
            return join([self._run_exact(image, idle=idle, features=features) for image in images])
        outputs = self._fast.run(images, size, idle=idle)
        close: list[int] = np.flatnonzero(_margins(outputs.logits) < self.margin).tolist()
        self._close_share += _NEW_SHARE_WEIGHT * (len(close) / len(images) - self._close_share)
        for index in close:
            outputs.logits[index] = self._run_exact(images[index], idle=idle).logits[0]
        return outputs

    def _run_exact(self, image: Pixels, *, idle: bool, features: bool = False) -> Outputs:
        return self._exact.run([image], 1, idle=idle, features=features)


def _margins(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The difference of the two highest of each image's ``logits (N, K)``, ``(N,)``."""
    highest = np.partition(logits, -2, axis=1)[:, -2:]
    margins: npt.NDArray[np.float32] = highest[:, 1] - highest[:, 0]
    return margins
