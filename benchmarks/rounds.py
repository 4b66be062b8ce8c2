"""Rounds: several contenders measured in turn, so that a drift of the machine's speed affects all alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "triton", "torchvision", "openvino", "numpy", "pillow", "uvicorn", "fastapi")
ISA_LIMITS = {  # environment variables of PyTorch's own kernels and of oneDNN, in PyTorch and OpenVINO
    "native": {},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}

Figure = TypeVar("Figure")


def alternate(contenders: Mapping[str, Callable[[], Figure]], rounds: int) -> dict[str, list[Figure]]:
    """Each contender's figures, one per round; the order is reversed every round."""
    figures: dict[str, list[Figure]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            figures[name].append(contenders[name]())
    return figures


def median_seconds(work: Callable[[], object], seconds: float = 0.5) -> float:
    """The median time of one call in s, over about ``seconds``, after one call that is not counted."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def calls_per_second(works: Sequence[Callable[[], object]], seconds: float) -> float:
    """How often ``works``, each repeated on a thread of its own, are done together."""
    started_at = time.perf_counter()

    def repeat(work: Callable[[], object]) -> int:
        calls = 0
        while not calls or time.perf_counter() < started_at + seconds:
            work()
            calls += 1
        return calls

    with ThreadPoolExecutor(len(works)) as threads:
        calls = sum(threads.map(repeat, works))
    return calls / (time.perf_counter() - started_at)


def ratios(figures: Mapping[str, list[float]], name: str, baseline: str) -> list[float]:
    """``name`` over ``baseline``, round by round."""
    return [value / base for value, base in zip(figures[name], figures[baseline], strict=True)]


def spread(values: list[float], digits: int = 2) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def hardware() -> dict[str, object]:
    """The CPU, its instruction sets and the limits set on them, the GPUs, and the versions of the libraries."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [flag for flag in fields.get("flags", "").split() if flag.startswith(("avx", "amx"))],
        "isa_limits": {name: os.environ[name] for name in ISA_LIMITS["avx2"] if name in os.environ},
        "gpus": gpus(),
        "python": platform.python_version(),
        **{package: installed_version(package) for package in PACKAGES},
    }


def gpus() -> list[str]:
    """The names of the CUDA devices, with their compute capability and memory."""
    found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
    return [f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in found]


def installed_version(package: str) -> str | None:
    """None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def keep(name: str, figures: object) -> Path:
    """Writes figures and hardware to ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware(), "figures": figures}, indent=1, ensure_ascii=False) + "\n")
    return path
