"""What the engine must know about a device, and how it exchanges data with it."""

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
    """A device: its properties, how data is copied to and from it, and the operations that it does faster than the
    reference.

    Attributes:
        asynchronous: Whether work is queued, so that a call returns before its result is ready. The engine then
            prepares the next step meanwhile.
        supports_graphs: Whether :meth:`capture` records graphs.
        sorts_fast: Whether sorting the vocabulary is faster than computing histograms on this device (chooses the
            sampling method).
        batch_invariant: Whether a token's result is bitwise the same whatever else is in the batch: each operation's
            result for a row only depends on that row.
    """

    device: torch.device
    asynchronous: bool = False
    supports_graphs: bool = False
    sorts_fast: bool = False
    batch_invariant: bool = False

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def kv_cache_bytes(self, utilization: float, reserved: int) -> int:
        """Bytes for the KV cache, after the weights are loaded.

        Args:
            utilization: the share of the device's memory that the engine may use in total
                (``--gpu-memory-utilization``).
            reserved: bytes that activations and graphs will need in addition.
        """

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        """This platform's own implementations of operations of :mod:`dovetail.nn.ops`, by name."""
        return {}

    def describe(self) -> str:
        """One line for logs, such as the device's name and cores."""
        return str(self.device)

    def upload(self, values: np.ndarray) -> Tensor:
        """Copy an array to the device, without waiting. The array may be written to when this returns, unless the
        device uses the host's memory: then the tensor shares it.
        """
        return torch.from_numpy(values).to(self.device)

    def fetch(self, values: Tensor) -> Callable[[], np.ndarray]:
        """Start to copy a tensor to the host. The returned function waits for the copy and returns it."""
        return values.numpy

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` does on the device. Each call of the result repeats it on the same tensors. ``work``
        may be called several times for the recording. Only called if :attr:`supports_graphs` is true.
        """
        return work

    def release(self) -> None:  # noqa: B027 - most have nothing to do
        """Return freed memory to the system or the device."""
