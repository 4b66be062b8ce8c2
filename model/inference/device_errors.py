"""Classifies exceptions of a device: out of memory, or lost.

PyTorch has classes for a part of these errors only: those of cuBLAS, cuDNN, Triton and MPS are plain ``RuntimeError``.
"""

import re

import torch

_OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_?alloc"
    r"|ALLOC_FAILED|ErrorMemoryAllocation|OUT_OF_MEMORY",
    re.IGNORECASE,
)
_FROM_DEVICE = re.compile(
    r"(CUDA|HIP|cuDNN|cuBLAS|cuBLASLt|cuSOLVER)( driver| runtime)? error|(CUBLAS|CUDNN|CUSOLVER)_STATUS_|CUDA_ERROR_"
    r"|cudaError|Triton Error \[CUDA\]",
    re.IGNORECASE,
)
_OF_ONE_CALL = re.compile(r"_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE|ARCH_MISMATCH|LICENSE_ERROR)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` means that an allocation, on the device or the host, failed: smaller batches may succeed."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None


def is_device_lost(error: BaseException) -> bool:
    """Whether ``error`` means that the device can no longer be used by this process."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    message = str(error)
    return _FROM_DEVICE.search(message) is not None and _OF_ONE_CALL.search(message) is None
