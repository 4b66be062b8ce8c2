"""CapturedUpdate: an update of the weights in one CUDA graph, as its kernels take less time than to start them."""

from collections.abc import Callable

import torch
from torch import Tensor

Update = Callable[[Tensor, Tensor, float], Tensor]
"""Changes the weights by ``images``, ``targets`` and a learning rate, and returns the loss."""


class CapturedUpdate:
    """``update`` as a graph, which is captured again when the shape of the images or the learning rate changes.

    The first update of a shape is not captured: it loads and allocates what a capture may not.
    """

    def __init__(self, update: Update) -> None:
        self._update = update
        self._graph: torch.cuda.CUDAGraph | None = None
        self._lr = 0.0
        self._images = self._targets = self._loss = torch.empty(0)

    def __call__(self, images: Tensor, targets: Tensor, lr: float) -> Tensor:
        """Updates the weights and returns the loss, which the next call overwrites."""
        if images.shape != self._images.shape:
            self._images, self._targets, self._lr = images.clone(), targets.clone(), 0.0
            return self._update(self._images, self._targets, lr)
        self._images.copy_(images)
        self._targets.copy_(targets)
        if lr != self._lr or self._graph is None:
            self._graph, self._lr = self._capture(lr), lr
        self._graph.replay()
        return self._loss

    def _capture(self, lr: float) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        pool = None if self._graph is None else self._graph.pool()  # its graph is not launched any more
        with torch.cuda.graph(graph, pool=pool):
            self._loss = self._update(self._images, self._targets, lr)
        return graph
