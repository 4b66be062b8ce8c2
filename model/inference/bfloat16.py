"""Whether a device computes bfloat16 natively; emulated bfloat16 is slower than float32."""

from collections.abc import Mapping

import torch


def computes_bfloat16(device: torch.device) -> bool:
    """Whether ``device`` has bfloat16 instructions and torch uses them."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch answers for the current device
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return has_native_bfloat16(torch.cpu.get_capabilities(), torch.backends.cpu.get_cpu_capability())
    return False


def has_native_bfloat16(capabilities: Mapping[str, object], kernels: str) -> bool:
    """Whether a CPU with ``capabilities`` (``torch.cpu.get_capabilities``) computes bfloat16 natively.

    ``kernels`` is the instruction set of torch's kernels, which the environment can lower (``ATEN_CPU_CAPABILITY``).
    """
    if capabilities["architecture"] == "x86_64":
        return kernels == "AVX512" and bool(capabilities["avx512_bf16"] or capabilities["amx_bf16"])
    return bool(capabilities.get("bf16", False))
