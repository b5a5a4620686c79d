"""The machine: its cores and devices, which number format, how fast it multiplies, and how it keeps
memory.

torch is imported where it is needed: the cores are asked for before it is loaded.
"""

import ctypes
import functools
import gc
import os
import platform
import shutil
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinylm.errors import InputError

if TYPE_CHECKING:
    import torch

# Dense bfloat16 peak of the tensor cores in FLOP/s, from the makers' data sheets (without
# sparsity).
PEAK_BF16 = {
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "4090": 165e12,
}


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


# Seconds that a process keeps back an error that is not its own, or not its own alone: whoever
# started the processes ends this one before it repeats what another has said.
KEPT_BACK = 3.0


def is_first_process() -> bool:
    """Whether this is the process that talks: the only one, or the first of torchrun's."""
    return os.environ.get("RANK", "0") == "0"


def limit_threads() -> None:
    """One thread a core where a container gives fewer cores than its machine has; an
    OMP_NUM_THREADS that is set stays."""
    if cores() < allowed():
        os.environ.setdefault("OMP_NUM_THREADS", str(cores()))


def choose_device(asked: str = "auto") -> "torch.device":
    """``asked`` (cpu, cuda, cuda:1, mps), or with auto this process's own CUDA device where there
    is one. Apple's mps is taken where it is asked for: nothing of ours was ever run on it."""
    import torch

    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if asked == "cpu" or ((kind := asked.partition(":")[0]) in there and there[kind]()):
        return torch.device(asked)
    if asked != "auto":
        raise InputError(f"--device {asked}: PyTorch sees no such device here, use --device cpu")
    if torch.cuda.is_available():
        rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if rank >= count:
            raise InputError(
                f"process {rank} of this machine has no GPU of its own: torchrun"
                f" --nproc-per-node={count}"
            )
        return torch.device("cuda", rank)
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of giving it back to the system after each use.

    By default every tensor above 32 MB is mapped and unmapped each time, and the page faults cost
    more than the arithmetic: on a virtual machine with 2 AMX cores a training step took 1.14 times
    as long.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_max = -1, -4  # numbers of malloc.h
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)


def bf16_is_fast(device: "torch.device") -> bool:
    """Whether bfloat16 matrix products are faster than float32: tensor cores, or AMX / AVX512-BF16
    on a CPU."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def fast_dtype(device: "torch.device") -> "torch.dtype":
    """bfloat16 where it is fast, else float32: on a CPU with AVX2 alone a product in bfloat16 takes
    46 times as long."""
    import torch

    return torch.bfloat16 if bf16_is_fast(device) else torch.float32


def can_compile(device: "torch.device") -> bool:
    """Whether torch.compile has what it needs: a C++ compiler (on a GPU, Triton's C compiler) and
    Python's headers."""
    names = ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")
    compiler = any(shutil.which(name) for name in (os.environ.get(names[0], names[1]), names[2]))
    return compiler and Path(sysconfig.get_paths()["include"], "Python.h").exists()


@functools.cache
def peak_flops(device: "torch.device", dtype: "torch.dtype") -> float:
    """FLOP/s of matrix products: the data sheet for a known GPU, else measured here in about half a
    second."""
    import torch

    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for known, peak in PEAK_BF16.items():
            if known in name:
                return peak
    size, times = (8192, 10) if device.type == "cuda" else (1024, 1)  # a launch must not count
    a = torch.randn(2 * size, size, dtype=dtype, device=device)
    b = torch.randn(size, size, dtype=dtype, device=device)
    best = float("inf")
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(times):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, (time.perf_counter() - start) / times)
    return 4 * size**3 / best


class PeakMemory:
    """Peak memory from now on: of the CUDA allocator, or (Linux) of this process above what it held
    before."""

    def __init__(self, device: str) -> None:
        import torch

        self.device = device
        gc.collect()
        if device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(device)
            return
        try:
            # give freed memory back, else the next model would reuse it unseen
            ctypes.CDLL(None).malloc_trim(0)
            # resets the kernel's high-water mark
            Path("/proc/self/clear_refs").write_text("5", "utf-8")
        except (OSError, AttributeError):
            self.device = ""
        self.before = _resident_peak()

    def peak(self) -> int | None:
        import torch

        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device)
        now = _resident_peak()
        return (
            now - self.before
            if self.device and now is not None and self.before is not None
            else None
        )


def _resident_peak() -> int | None:
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return None
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")),
        None,
    )


def peak_memory(device: "torch.device") -> int:
    """Bytes at the peak so far: of the device, or of this process on a CPU; 0 where no system call
    tells."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cpu_name() -> str:
    """The processor, as its maker calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )


def machine(device: str = "cpu") -> dict[str, Any]:
    """What the numbers were measured on."""
    from importlib.metadata import version

    import torch

    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.startswith("cuda") else None,
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def free_bytes(device: "torch.device") -> int:
    """Memory that can still be had: of the GPU, or of this machine."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text("utf-8").splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
        most = Path("/sys/fs/cgroup/memory.max")
        limit = most.read_text("utf-8").strip() if most.exists() else "max"
        if limit != "max":  # a container may have less than its machine
            used = int(most.with_name("memory.current").read_text("utf-8"))
            free = min(free, max(0, int(limit) - used))
        return free
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
