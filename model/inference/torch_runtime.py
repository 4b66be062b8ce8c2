"""TorchRuntime: the folded network in PyTorch, eager or compiled, on any device."""

import threading

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from model.convnext import ConvNeXt
from model.inference.runtime import Outputs


class _WithFeatures(nn.Module):
    """Returns the last feature map besides the logits: it exists anyway, and only copying it to the host costs."""

    def __init__(self, network: ConvNeXt) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.forward_features(x)
        return self.network.head(features), features


class TorchRuntime:
    """Takes over ``network``, which takes pixels from 0 to 255; see ``Runtime``.

    On CUDA two threads may call ``run``: each has its own stream and pinned input buffer, so that one batch is copied
    while the other is computed.
    """

    def __init__(
        self, network: ConvNeXt, device: torch.device, dtype: torch.dtype, *, compiled: bool, threads: int
    ) -> None:
        self.mode = "compiled" if compiled else "eager"
        self.batch_size_step = 2 if compiled else 1
        self.concurrency = 2 if device.type == "cuda" else 1
        self._device = device
        self._dtype = dtype
        self._threads = threads
        self._local = threading.local()
        self._network = _WithFeatures(network.to(device, dtype).to(memory_format=torch.channels_last))
        if compiled:
            self._network.compile(dynamic=False)

    def tune(self, images: npt.NDArray[np.uint8], decode_s: float) -> None:
        """There is nothing to choose."""

    def run(self, images: npt.NDArray[np.uint8], *, idle: bool, features: bool = False) -> Outputs:
        """Computes ``(N, H, W, 3)`` uint8 pixels."""
        with torch.inference_mode():
            if self._device.type == "cuda":
                return self._run_on_stream(images, features)
            if torch.get_num_threads() != self._threads:  # a setting of each thread
                torch.set_num_threads(self._threads)
            return self._forward(torch.from_numpy(images).to(self._device), features)

    def _run_on_stream(self, images: npt.NDArray[np.uint8], features: bool) -> Outputs:
        if not hasattr(self._local, "stream"):
            self._local.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's
            self._local.pinned = torch.empty(0, dtype=torch.uint8, pin_memory=True)
        if self._local.pinned.numel() < images.size:
            self._local.pinned = torch.empty(images.size, dtype=torch.uint8, pin_memory=True)
        pinned = self._local.pinned[: images.size].view(images.shape)
        pinned.copy_(torch.from_numpy(images))
        with torch.cuda.stream(self._local.stream):
            return self._forward(pinned.to(self._device, non_blocking=True), features)

    def _forward(self, images: Tensor, with_features: bool) -> Outputs:
        pixels = images.permute(0, 3, 1, 2).to(self._dtype)  # (N, 3, H, W), channels last
        logits, features = self._network(pixels)
        return Outputs(_to_host(logits), _to_host(features) if with_features else None)


def _to_host(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.float().cpu().numpy()  # cpu() waits for the stream
    return array
