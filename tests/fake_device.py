"""A device that queues work and captures graphs, played by the host: what a captured step reads must be on the device, and what is on its way
cannot be seen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dovetail.nn import AttentionSpec, KVIndex, Memory, Platform, Step
from dovetail.testing.reference import ReferenceAttention


class FakeDevice(Platform):
    """Attributes:
    captured: graphs recorded so far, over all instances.
    replayed: how often they ran.
    """

    asynchronous = True
    supports_graphs = True
    captured = 0
    replayed = 0

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def memory(self) -> Memory:
        return Memory(2**30, 2**30)

    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        return 2**21

    def upload(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.copy())

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        # A copy at this place of the queue: later work may write over the values.
        there = values.clone()
        return there.numpy

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        FakeDevice.captured += 1
        with torch.inference_mode():
            work()  # as devices do to get ready, with all that it writes

        def replay() -> None:
            FakeDevice.replayed += 1
            with torch.inference_mode():
                work()

        return replay


class FakeAttention(ReferenceAttention):
    """Insists that captured steps bring no lengths, and keeps to their bounds."""

    def capture_lengths(self, max_len: int) -> tuple[int, ...]:
        return (*range(32, max_len, 32), max_len)

    def prepare(self, step: Step, index: KVIndex, specs: frozenset[AttentionSpec]) -> None:
        super().prepare(step, index, specs)
        if step.lengths is None:
            assert step.max_query_len == 1
            assert index.block_tables.shape[1] == -(-step.max_seq_len // self.block_size)
        else:
            assert step.lengths.total == step.seq_lens.tolist()
