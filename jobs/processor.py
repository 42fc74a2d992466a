"""What this machine's processor is: its name, what it can, how many cores are ours. Linux."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

__all__ = ["cores", "flags", "has_bfloat16", "large_pages", "may_have_gpu", "name"]

CPUINFO = Path("/proc/cpuinfo")
CUDA_DRIVER = "libcuda.so.1"  # comes with NVIDIA's driver, not with torch
AMD_DEVICE = Path("/dev/kfd")
# Products of bfloat16 numbers in the processor itself: AVX-512 and AMX of x86, SVE or NEON of ARM
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
TOLD = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "bf16")


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def flags() -> frozenset[str]:
    """What the processor says it can; empty where the system does not tell."""
    for line in _lines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 numbers itself.

    OpenVINO and oneDNN say that they compute in bfloat16 on every AVX-512 processor; without these
    instructions they convert to and fro, slower than float32.
    """
    return bool(flags() & BFLOAT16)


def may_have_gpu() -> bool:
    """False where no GPU's driver is installed: torch, whatever its build, would find no GPU.

    Takes milliseconds, and no part of a GPU; importing torch to ask it takes seconds.
    """
    if AMD_DEVICE.exists():
        return True
    try:
        ctypes.CDLL(CUDA_DRIVER)
    except OSError:
        return False
    return True


def large_pages() -> dict[str, str]:
    """Environment of a process that shall take its memory in pages of 2 MB, where there are such.

    Networks read more memory for each crop than page tables of 4 KB are good for: with large pages
    all five took 0.88 of the time in bfloat16 and 0.97 in float32 (Xeon with AMX, a virtual
    machine), and no more memory. glibc (2.35 and later) reads this only as a process begins; where
    Linux gives large pages to all, or to none, it changes nothing.
    """
    given = os.environ.get("GLIBC_TUNABLES", "")
    if "glibc.malloc.hugetlb" not in given:
        given = f"{given}:glibc.malloc.hugetlb=1".lstrip(":")
    return {"GLIBC_TUNABLES": given}


def name() -> str:
    """``AMD EPYC (avx2), 2 cores``."""
    models = {line.partition(":")[2].strip() for line in _lines() if line.startswith("model name")}
    known = ", ".join(sorted(models)) or platform.processor() or platform.machine()
    has = [flag for flag in TOLD if flag in flags()]
    return f"{known} ({', '.join(has)}), {cores()} cores" if has else f"{known}, {cores()} cores"


def _lines() -> list[str]:
    return CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
