"""The device: its memory, and the operations that it does better than the reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from dovetail.nn import Memory, Platform
from torch import Tensor


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` with gate and up side by side, ``[..., 2 * C]`` → ``[..., C]``, in one temporary less."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate).mul_(up)


class PLUGIN_CLASSPlatform(Platform):
    """Torch's host device."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def memory(self) -> Memory:
        page = os.sysconf("SC_PAGE_SIZE")
        return Memory(total=page * os.sysconf("SC_PHYS_PAGES"), free=page * os.sysconf("SC_AVPHYS_PAGES"))

    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        memory = self.memory()
        used = memory.total - memory.free
        # Main memory is other programs' too: at most 4 GiB of it.
        return max(0, min(4 << 30, int(memory.total * utilization) - used - reserved))

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        return {"silu_mul": silu_mul}

    def describe(self) -> str:
        return f"PLUGIN_NAME, {torch.get_num_threads()} threads"
