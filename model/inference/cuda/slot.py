"""Slot: one stream with fixed buffers and a CUDA graph for each batch size."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.images.transform import Pixels
from model.inference.cuda.gpu import Gpu
from model.inference.runtime import Outputs

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Pixels ``(N, H, W, 3)`` uint8 on the GPU to float32 logits ``(N, classes)`` and the feature map ``(N, K, H, W)``."""


class _Graph(NamedTuple):
    forward: Forward  # that it recorded
    launch: Callable[[], None]
    features: Tensor


class Slot:
    """Runs batches of up to ``max_batch_size`` images, for one thread at a time; ``pixels`` are the current ones.

    A graph is one launch from the pinned pixels to the pinned logits: the interpreter lock is needed once per batch
    rather than for each of about 150 kernels.
    """

    def __init__(self, gpu: Gpu, max_batch_size: int, input_size: int, num_classes: int) -> None:
        self.stream = gpu.stream()
        self._pinned_pixels = gpu.pinned((max_batch_size, input_size, input_size, 3), torch.uint8)
        self._pinned_logits = gpu.pinned((max_batch_size, num_classes), torch.float32)
        self.pixels = torch.zeros_like(self._pinned_pixels, device=gpu.device)
        self._graphs: dict[int, _Graph] = {}

    def run(self, images: Sequence[Pixels], size: int, forward: Forward, *, features: bool = False) -> Outputs:
        """Computes N images as a batch of ``size`` ≥ N: by its graph, if there is one, else by ``forward``.

        The rest of the batch are images of earlier ones, as it would take time to erase them.
        """
        count = len(images)
        np.stack(images, out=self._pinned_pixels[:count].numpy())
        with torch.inference_mode(), self.stream.active():
            try:
                maps = self.launch(size, forward)
                host_maps = maps[:count].to("cpu", torch.float32, copy=True) if features else None
            finally:  # after an error, too: what has been started reads the buffers
                self.stream.wait()
        logits = self._pinned_logits[:count].numpy().copy()  # the next batch overwrites it
        return Outputs(logits, None if host_maps is None else host_maps.numpy())

    def launch(self, size: int, forward: Forward) -> Tensor:
        """Starts a batch of the current pixels, on the active stream; returns the feature maps."""
        if (graph := self._graphs.get(size)) is not None and graph.forward is forward:
            graph.launch()
            return graph.features
        return self._start(size, forward)

    def capture(self, size: int, forward: Forward) -> None:
        """Records a batch of ``size`` in a graph, which replaces that of another ``forward``."""
        if (graph := self._graphs.get(size)) is not None and graph.forward is forward:
            return
        self.forget(size)
        with torch.inference_mode(), self.stream.active():
            self._start(size, forward)  # loads, compiles and allocates what recording a graph may not
            self.stream.wait()
            self._graphs[size] = _Graph(forward, *self.stream.capture(lambda: self._start(size, forward)))

    def forget(self, size: int) -> None:
        """Drops the graph of batches of ``size``."""
        self._graphs.pop(size, None)

    def forget_all(self) -> None:
        """Drops all graphs."""
        self._graphs.clear()

    def _start(self, size: int, forward: Forward) -> Tensor:
        pixels = self.pixels[:size]
        pixels.copy_(self._pinned_pixels[:size], non_blocking=True)
        logits, features = forward(pixels)
        self._pinned_logits[:size].copy_(logits, non_blocking=True)
        return features
