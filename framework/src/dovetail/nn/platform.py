"""What the engine needs to know of a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Memory:
    """Bytes that the device has, and has free now."""

    total: int
    free: int


class Platform(ABC):
    """A device: its facts, and the operations that it does better than the reference."""

    device: torch.device

    @abstractmethod
    def memory(self) -> Memory: ...

    @abstractmethod
    def kv_cache_bytes(self, utilization: float) -> int:
        """Bytes to give to the KV cache, once the weights are loaded.

        Args:
            utilization: the share of the device's memory that the engine may use in all (``--gpu-memory-utilization``).
        """

    def operations(self) -> Mapping[str, Callable[..., Any]]:
        """Operations of :mod:`dovetail.nn.ops` that this device does itself, by name."""
        return {}

    def describe(self) -> str:
        """One line for logs, such as the device's name and cores."""
        return str(self.device)
