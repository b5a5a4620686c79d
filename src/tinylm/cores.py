"""How many CPU cores this process may use. Asked before torch is loaded, so nothing is imported."""

import os
from pathlib import Path


def cores() -> int:
    """Cores of this process's affinity and of its container (cgroup), not of the machine."""
    count, quota = allowed(), Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        most, period = (*quota.read_text("utf-8").split(), "100000")[:2]
        if most != "max":
            count = min(count, max(1, int(most) // int(period)))
    return count


def allowed() -> int:
    """Cores of this process's affinity, which torch takes as its number of threads."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def limit_threads() -> None:
    """One thread a core where a container gives fewer cores than its machine has; an
    OMP_NUM_THREADS that is set stays."""
    if cores() < allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))
