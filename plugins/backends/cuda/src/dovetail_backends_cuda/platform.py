"""The CUDA platform: memory, graphs, and asynchronous copies of an NVIDIA GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dovetail.nn import Memory, Platform
from dovetail_backends_cuda import probes
from dovetail_backends_cuda.operations import OPERATIONS

COPIED_BY_KERNEL = 1 << 14
"""Bytes up to which a kernel writes results into the host's memory."""


class CudaPlatform(Platform):
    """The process's current CUDA device.

    All work is queued on the current stream. Captured graphs share one memory pool, so all of them together take about
    as much as the largest one. Each graph overwrites the memory of the one that ran before.
    """

    asynchronous = True
    supports_graphs = True
    sorts_fast = True

    def __init__(self) -> None:
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._pool = torch.cuda.graph_pool_handle()
        # One stream for all captures: cuBLAS keeps 32 MiB for each stream that it has worked on.
        self._copy_stream = torch.cuda.Stream(self.device)
        self._copy: Callable[[Tensor, Tensor], None] | None = None
        self._arriving: list[tuple[torch.cuda.Event, Tensor]] = []
        if probes.triton() is None:
            from dovetail_backends_cuda import pointwise  # imports Triton

            self._copy = pointwise.copy

    def memory(self) -> Memory:
        free, total = torch.cuda.mem_get_info(self.device)
        return Memory(total, free)

    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        """The share ``utilization`` of the whole memory, less what any process uses and what is reserved."""
        self.release()
        memory = self.memory()
        used = memory.total - memory.free
        return max(0, int(memory.total * utilization) - used - reserved)

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        if probes.triton() is not None:
            return OPERATIONS
        from dovetail_backends_cuda import pointwise  # imports Triton

        return {**OPERATIONS, **pointwise.OPERATIONS}

    def describe(self) -> str:
        facts = torch.cuda.get_device_properties(self.device)
        return (
            f"cuda ({facts.name}, compute capability {facts.major}.{facts.minor}, {facts.total_memory / 2**30:.1f} GiB)"
        )

    def upload(self, values: np.ndarray) -> Tensor:
        # torch keeps the pinned copy until the device has read it.
        return torch.from_numpy(values).pin_memory().to(self.device, non_blocking=True)

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        there = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        arrived = torch.cuda.Event()
        if self._copy is not None and 0 < values.nbytes <= COPIED_BY_KERNEL and values.is_contiguous():
            self._copy(values, there)
            arrived.record()
            # torch knows nothing of that copy, and gives memory away that nobody holds.
            self._arriving = [item for item in self._arriving if not item[0].query()]
            self._arriving.append((arrived, there))
        else:
            there.copy_(values, non_blocking=True)
            arrived.record()

        def wait() -> np.ndarray:
            arrived.synchronize()
            return there.numpy()

        return wait

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        # Libraries set themselves up, and kernels are compiled, in their first call, which a capture would not survive.
        self._copy_stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._copy_stream):
            work()
        torch.cuda.current_stream(self.device).wait_stream(self._copy_stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._copy_stream, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def release(self) -> None:
        gc.collect()
        torch.cuda.empty_cache()
