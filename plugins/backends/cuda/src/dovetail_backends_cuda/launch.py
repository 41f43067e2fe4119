"""How Triton kernels of this package are launched.

Programmatic dependent launch (NVIDIA, CUDA programming guide, "Programmatic Dependent Launch and Synchronization") starts a kernel's
blocks while the kernel before it still runs. They fetch what no kernel of this step writes (weights, above all), and then wait for all
that came before. So in a chain of small kernels, the memory is not idle between them.

It is not always faster: what starts early takes room from what still runs. Of whole steps of Llama-3.1-8B on an H200, those were fastest
in which products with tensor cores do not start early, since their tiles take most of a processor's shared memory, and attention does, but
lets nothing start before its end (at 16 requests 4.28 ms, and 4.57 if everything starts early).

The rules that make it safe: every kernel here waits before it reads what another one may have written, and before it writes anything. A block
without work may end at once where others of its kernel wait. Only kernels that wait are launched so. A kernel of another library in the chain is launched in the ordinary way, which waits for everything.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

DEPENDENT = True
"""Whether kernels are launched dependently where the device can."""
FIRST_WITH_DEPENDENT_LAUNCH = (9, 0)
"""Compute capability: Hopper. Its tensor memory accelerator (TMA) came with it."""


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability; (0, 0) of what is not a GPU, as in Triton's interpreter."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; a few where there are none, as in Triton's interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def options(device: torch.device, early: bool = True) -> dict[str, Any]:
    """The keyword arguments of a launch: the kernel's ``dependent``, and what goes with it.

    Args:
        early: whether it starts while the kernel before it still runs. Otherwise it may only let the next one do so.
    """
    if DEPENDENT and capability(device) >= FIRST_WITH_DEPENDENT_LAUNCH:
        return {"dependent": True, "launch_pdl": early}
    return {"dependent": False}
