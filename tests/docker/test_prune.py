"""Pruning of the image's virtual environment, on a tree of empty files."""

import subprocess
from pathlib import Path

from tests.constants import ROOT

SCRIPT = ROOT / "docker" / "prune.sh"

DELETED = (
    "torch/include/ATen/ATen.h",
    "torch/bin/protoc",
    "openvino/libs/libopenvino_intel_gpu_plugin.so",
    "openvino/libs/libopenvino_intel_npu_plugin.so",
    "nvidia/cu13/include/cuda.h",
    "nvidia/cu13/lib/libcudart_static.a",
    "nvidia/cu13/lib/libcusolverMg.so.12",
    "nvidia/nvshmem/lib/libnvshmem_device_sm_90.bc",
)
KEPT = (
    "app/main.py",
    "torch/lib/libtorch_cpu.so",
    "torch/bin/torch_shm_manager",
    "openvino/libs/libopenvino_intel_cpu_plugin.so",
    "nvidia/cu13/lib/libcusolver.so.12",
    "nvidia/cudnn/lib/libcudnn_engines_precompiled.so.9",
)


def create(venv: Path, names: tuple[str, ...]) -> Path:
    packages = venv / "lib" / "python3.12" / "site-packages"
    for name in names:
        (packages / name).parent.mkdir(parents=True, exist_ok=True)
        (packages / name).touch()
    return packages


def test_deletes_only_what_no_process_loads(tmp_path: Path) -> None:
    packages = create(tmp_path, DELETED + KEPT)
    subprocess.run(["sh", SCRIPT, tmp_path], check=True)
    remaining = {str(path.relative_to(packages)) for path in packages.rglob("*") if path.is_file()}
    assert remaining == set(KEPT)


def test_accepts_a_build_of_torch_without_cuda(tmp_path: Path) -> None:
    packages = create(tmp_path, ("torch/lib/libtorch_cpu.so",))
    subprocess.run(["sh", SCRIPT, tmp_path], check=True)
    assert (packages / "torch/lib/libtorch_cpu.so").exists()
