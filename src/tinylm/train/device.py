"""The machine: which device, which number format, how fast it multiplies, and how it keeps memory."""

import ctypes
import functools
import os
import shutil
import sys
import sysconfig
import time
from pathlib import Path

import torch

from tinylm.errors import InputError

# Dense bfloat16 peak of the tensor cores in FLOP/s, from the makers' data sheets (without sparsity).
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12, "4090": 165e12}


def choose_device(asked: str = "auto") -> torch.device:
    """``asked`` (cpu, cuda, cuda:1), or with auto this process's own GPU where there is one."""
    if asked == "cpu" or (asked.startswith("cuda") and torch.cuda.is_available()):
        return torch.device(asked)
    if asked != "auto":
        raise InputError(f"--device {asked}: PyTorch sees no such device here, use --device cpu")
    if torch.cuda.is_available():
        rank, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if rank >= count:
            raise InputError(f"process {rank} of this machine has no GPU of its own: torchrun --nproc-per-node={count}")
        return torch.device("cuda", rank)
    return torch.device("cpu")


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed instead of giving it back to the system after each use.

    By default every tensor above 32 MB is mapped and unmapped each time, and the page faults cost more than the
    arithmetic: on a virtual machine with 2 AMX cores a training step took 1.14 times as long.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            trim_threshold, mmap_max = -1, -4  # numbers of malloc.h
            libc.mallopt(mmap_max, 0)
            libc.mallopt(trim_threshold, 2**31 - 1)


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bfloat16 matrix products are faster than float32: tensor cores, or AMX / AVX512-BF16 on a CPU."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: a C++ compiler (on a GPU, Triton's C compiler) and Python's headers."""
    names = ("CXX", "g++", "clang++") if device.type == "cpu" else ("CC", "gcc", "clang")
    compiler = any(shutil.which(name) for name in (os.environ.get(names[0], names[1]), names[2]))
    return compiler and Path(sysconfig.get_paths()["include"], "Python.h").exists()


@functools.cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products: the data sheet for a known GPU, else measured here in about half a second."""
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
