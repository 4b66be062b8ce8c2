"""Rounds: several contenders measured in turn, so that a machine whose speed drifts treats them alike."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def alternate(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each contender's figures, one a round; the order turns around every round."""
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name in list(contenders)[:: 1 if turn % 2 == 0 else -1]:
            figures[name].append(contenders[name]())
    return figures


def median_seconds(work: Callable[[], object], seconds: float = 0.5) -> float:
    """The median time of one call, in s, over about ``seconds``, after one call that is not counted."""
    work()
    times, end = [], time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def ratios(figures: Mapping[str, list[float]], name: str, other: str) -> list[float]:
    """``name`` over ``other``, round by round."""
    return [mine / theirs for mine, theirs in zip(figures[name], figures[other], strict=True)]


def spread(values: list[float], digits: int = 2) -> str:
    """Median, and least to most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def hardware() -> dict[str, object]:
    """What the figures were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if flag in flags],
        "python": platform.python_version(),
        **{package: version(package) for package in ("torch", "openvino", "pillow", "uvicorn", "fastapi")},
    }


def keep(name: str, figures: object) -> Path:
    """Writes figures and hardware to ``benchmarks/results/NAME.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"hardware": hardware(), "figures": figures}, indent=1, ensure_ascii=False) + "\n")
    return path
