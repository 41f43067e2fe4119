"""What the engine needs to know of a device, and how it works beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Bytes that the device has, and has free now."""

    total: int
    free: int


class Platform(ABC):
    """A device: its facts, how data reaches it, and the operations that it does better than the reference."""

    device: torch.device
    asynchronous: bool = False
    """Whether work is queued, so that a call returns before its result is there. The engine then prepares the next step meanwhile."""
    supports_graphs: bool = False
    """Whether :meth:`capture` records graphs."""
    sorts_fast: bool = False
    """Whether it sorts a vocabulary faster than it makes histograms of it."""
    batch_invariant: bool = False
    """Whether every token gets the same bits whatever else is computed beside it: each operation's result for a row follows from that row alone."""

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        """Bytes to give to the KV cache, once the weights are loaded.

        Args:
            utilization: the share of the device's memory that the engine may use in all (``--gpu-memory-utilization``).
            reserved: bytes that activations and graphs will need beside it.
        """

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        """Operations of :mod:`dovetail.nn.ops` that this device does itself, by name."""
        return {}

    def describe(self) -> str:
        """One line for logs, such as the device's name and cores."""
        return str(self.device)

    def upload(self, values: np.ndarray) -> Tensor:
        """A copy on the device, without waiting for it. The array may be written to as soon as this returns, unless the device is the host's own
        memory: then the tensor shares it.
        """
        return torch.from_numpy(values).to(self.device)

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        """Begin to copy a tensor to the host; the returned function waits until it is there."""
        return values.numpy

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` does on the device; each call of the result does it again, on the same tensors. ``work`` may be run several
        times for that. Only called where :attr:`supports_graphs` is true.
        """
        return work

    def release(self) -> None:  # noqa: B027 - most have nothing to do
        """Give freed memory back to the system or the device."""
