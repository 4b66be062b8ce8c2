"""TorchRuntime: the folded network in PyTorch, eager or compiled, on a CPU or MPS."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.convnext import ConvNeXt
from model.images.transform import Pixels
from model.inference.compilation import compiled_for_each_size
from model.inference.precise_head import PreciseHead
from model.inference.runtime import Outputs, stacked


class TorchRuntime:
    """Takes over ``network``, which takes pixels from 0 to 255; see ``Runtime``."""

    concurrency = 1

    def __init__(
        self, network: ConvNeXt, device: torch.device, dtype: torch.dtype, *, compiled: bool, threads: int
    ) -> None:
        self.mode = "compiled" if compiled else "eager"
        self.batch_size_step = 2 if compiled else 1
        self._device = device
        self._threads = threads
        network_in_dtype = PreciseHead(network, device, dtype)
        self._forward = compiled_for_each_size(network_in_dtype) if compiled else network_in_dtype

    def tune(self, images: Sequence[Pixels], sizes: Sequence[int], decode_s: float) -> None:
        """There is nothing to choose."""

    def run(self, images: Sequence[Pixels], size: int, *, idle: bool, features: bool = False) -> Outputs:
        """Computes N images ``(H, W, 3)`` uint8 as a batch of ``size``."""
        if torch.get_num_threads() != self._threads:  # a setting of each thread
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            logits, maps = self._forward(torch.from_numpy(stacked(images, size)).to(self._device))
            count = len(images)
            return Outputs(_to_host(logits[:count]), _to_host(maps[:count]) if features else None)


def _to_host(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()  # cpu() waits for the device
    return array
