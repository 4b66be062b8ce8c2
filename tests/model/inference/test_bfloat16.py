import pytest
import torch

from model.inference.bfloat16 import computes_bfloat16, has_native_bfloat16


def x86(**features: bool) -> dict[str, object]:
    return {"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False} | features


@pytest.mark.parametrize(
    ("capabilities", "kernels", "expected"),
    [
        (x86(avx512_bf16=True), "AVX512", True),
        (x86(amx_bf16=True), "AVX512", True),
        (x86(), "AVX512", False),
        (x86(avx512_bf16=True, amx_bf16=True), "AVX2", False),  # limited by ATEN_CPU_CAPABILITY
        (x86(), "AVX2", False),
        ({"architecture": "aarch64", "bf16": True}, "DEFAULT", True),
        ({"architecture": "aarch64", "bf16": False}, "SVE256", False),
        ({"architecture": "unknown"}, "DEFAULT", False),
    ],
)
def test_native_bfloat16_needs_the_instructions_and_kernels(
    capabilities: dict[str, object], kernels: str, expected: bool
) -> None:
    assert has_native_bfloat16(capabilities, kernels) is expected


def test_this_cpu_is_asked_through_torch() -> None:
    capabilities, kernels = torch.cpu.get_capabilities(), torch.backends.cpu.get_cpu_capability()
    assert computes_bfloat16(torch.device("cpu")) is has_native_bfloat16(capabilities, kernels)


def test_other_devices_compute_float32() -> None:
    assert not computes_bfloat16(torch.device("meta"))
