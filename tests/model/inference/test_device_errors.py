"""Errors of devices and their libraries are told apart by what can be done about them."""

import pytest
import torch

from model.inference.device_errors import is_device_lost, is_out_of_memory

KINDS: dict[str, list[Exception]] = {
    "out of memory": [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        MemoryError("Unable to allocate 1.0 GiB for an array"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.91 GB, other allocations: 1.2 GB)"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("std::bad_alloc"),
        torch.AcceleratorError("CUDA error: out of memory"),
    ],
    "lost": [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: unspecified launch failure"),
        RuntimeError("CUDA driver error: device is lost"),
    ],
    "other": [
        ValueError("CUDA error: not of a device"),
        ZeroDivisionError("a bug"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(...)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"),
    ],
}
CASES = [(error, kind) for kind, errors in KINDS.items() for error in errors]


@pytest.mark.parametrize(("error", "kind"), CASES, ids=str)
def test_errors_of_every_library_are_told_apart(error: Exception, kind: str) -> None:
    assert is_out_of_memory(error) == (kind == "out of memory")
    assert is_device_lost(error) == (kind == "lost")
