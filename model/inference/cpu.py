"""How many CPU cores this process may use: its affinity mask and its container's quota."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def available_cores(cgroups: Path = _CGROUPS) -> int:
    """The cores in the affinity mask, at most as many as the CPU quota of the cgroup (v1 or v2), at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota_v2(cgroups / "cpu.max") or _quota_v1(cgroups / "cpu")
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _quota_v2(path: Path) -> float | None:
    """``cpu.max`` holds quota and period in microseconds; the quota may be ``max``."""
    try:
        quota, period = path.read_text().split()
        return int(quota) / int(period) if quota != "max" else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    """A quota of -1 means that there is none."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
