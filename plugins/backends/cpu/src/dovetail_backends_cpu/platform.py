"""The CPU platform: the host's processor and memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch

from dovetail.api import UsageError
from dovetail.nn import Memory, Platform
from dovetail_backends_cpu import row_invariant as rows

SPACE_VARIABLE = "DOVETAIL_CPU_KVCACHE_SPACE"
DEFAULT_SPACE_GIB = 4.0
CGROUP = Path("/sys/fs/cgroup")


class CpuPlatform(Platform):
    """Uses torch's CPU kernels, with torch's number of threads (``OMP_NUM_THREADS``)."""

    batch_invariant = rows.has_onednn()

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        rows.avoid_tiles()

    def memory(self) -> Memory:
        host = psutil.virtual_memory()
        total, free = int(host.total), int(host.available)
        if (limit := _cgroup("memory.max")) is not None and limit < total:
            total, free = limit, min(free, max(0, limit - (_cgroup("memory.current") or 0)))
        return Memory(total, free)

    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        """``DOVETAIL_CPU_KVCACHE_SPACE`` GiB (4 by default), or less if less is free.

        Other programs use main memory too, so the default is an amount, not a share.

        Raises:
            UsageError: the variable is not a positive number.
        """
        text = os.environ.get(SPACE_VARIABLE, str(DEFAULT_SPACE_GIB))
        try:
            space = float(text)
        except ValueError:
            space = 0.0
        if not 0 < space < float("inf"):
            raise UsageError(f"{SPACE_VARIABLE} is {text!r}, wanted a number of GiB above 0", "for example 4")
        memory = self.memory()
        spared = int(memory.total * (1 - utilization))
        return max(0, min(int(space * 2**30), memory.free - spared - reserved))

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return rows.OPERATIONS

    def release(self) -> None:
        """Return freed memory to the system.

        Repacking weights leaves large holes in the heap, which glibc keeps. If the C library has no ``malloc_trim``,
        nothing happens.
        """
        gc.collect()
        try:
            trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):
            return
        trim(0)

    def describe(self) -> str:
        return (
            f"cpu ({platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()})"
        )


def _cgroup(name: str) -> int | None:
    """A limit of the process's control group (version 2) in bytes, or None."""
    try:
        return int((CGROUP / name).read_text())
    except (OSError, ValueError):  # no control groups, or "max"
        return None
