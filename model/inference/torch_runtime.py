"""TorchRuntime: the folded network in PyTorch, eager or compiled, on any device."""

import numpy as np
import numpy.typing as npt
import torch

from model.convnext import ConvNeXt


class TorchRuntime:
    """Takes over ``network``, which takes pixels in 0…255; see ``Runtime``."""

    def __init__(self, network: ConvNeXt, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> None:
        self.mode = "compiled" if compiled else "eager"
        self.growth = 2 if compiled else 1
        self._device = device
        self._dtype = dtype
        self._network = network.to(device, dtype).to(memory_format=torch.channels_last)
        if compiled:
            self._network.compile(dynamic=False)

    def logits(self, images: npt.NDArray[np.uint8]) -> torch.Tensor:
        """``(N, H, W, 3)`` uint8 pixels to ``(N, num_classes)`` logits on the device."""
        batch = torch.from_numpy(images)
        if self._device.type == "cuda":
            batch = batch.pin_memory()
        pixels = batch.to(self._device, non_blocking=True).permute(0, 3, 1, 2)  # (N, 3, H, W) uint8, channels last
        out: torch.Tensor = self._network(pixels.to(self._dtype))
        return out
