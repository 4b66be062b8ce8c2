"""build_runtime: the runtime for a network on a device, whose libraries are imported only here."""

import torch

from model.convnext import ConvNeXt
from model.errors import DeviceLost, EngineError
from model.inference.device_errors import is_device_lost, is_out_of_memory
from model.inference.runtime import Runtime
from model.inference.selection import RuntimeName


def build_runtime(
    name: RuntimeName,
    network: ConvNeXt,
    device: torch.device,
    dtype: torch.dtype,
    *,
    input_size: int,
    max_batch_size: int,
    threads: int,
    compiled: bool,
) -> Runtime:
    """The runtime that takes over the folded ``network``. Raises ``EngineError`` if the device cannot hold it."""
    try:
        if name == "openvino":
            from model.inference.openvino_runtime import OpenVinoRuntime

            return OpenVinoRuntime(network, dtype, input_size, threads)
        if device.type == "cuda":
            from model.inference.cuda.gpu import CudaGpu
            from model.inference.cuda_runtime import CudaRuntime

            return CudaRuntime(network, CudaGpu(device), dtype, input_size, max_batch_size, compiled=compiled)
        from model.inference.torch_runtime import TorchRuntime

        return TorchRuntime(network, device, dtype, compiled=compiled, threads=threads)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise EngineError(f"the network does not fit into the memory of {device}") from error
        if is_device_lost(error):
            raise DeviceLost(f"{device} cannot be used: {error}") from error
        raise
