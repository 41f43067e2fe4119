"""Where memory goes: what a step's activations take, and what is left for the KV cache."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Budget:
    """The memory of a device, in bytes, as the engine divides it.

    Attributes:
        total, free: of the device, free before the cache was allocated and with the weights loaded.
        weights: as the kernels keep them.
        activations: the most that a step needs beside them.
        graphs: captured steps.
        cache: the KV cache.
        tokens: that the cache holds, or None if its size does not limit them.
    """

    total: int
    free: int
    weights: int
    activations: int
    graphs: int
    cache: int
    tokens: int | None

    def __str__(self) -> str:
        graphs = f", graphs {gib(self.graphs)}" if self.graphs else ""
        tokens = "" if self.tokens is None else f" for {self.tokens:,} tokens"
        return (
            f"weights {gib(self.weights)}; of the {gib(self.free)} that were free beside them, activations "
            f"{gib(self.activations)}{graphs}, KV cache {gib(self.cache)}{tokens}"
        )


def gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


class _Peak(TorchDispatchMode):
    """Counts the bytes of tensors that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._storages: dict[int, list[int]] = {}  # address → [tensors that share it, bytes]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor, given)
        return out

    def _note(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        entry = self._storages.get(address)
        if entry is None:
            if address in given or not address:  # a view of something that was there before: a weight, an input
                return
            entry = self._storages[address] = [0, storage.nbytes()]
            self.live += entry[1]
            self.peak = max(self.peak, self.live)
        entry[0] += 1
        weakref.finalize(tensor, self._gone, address)

    def _gone(self, address: int) -> None:
        entry = self._storages[address]
        entry[0] -= 1
        if not entry[0]:
            self.live -= entry[1]
            del self._storages[address]


def peak_bytes(work: Callable[[], object]) -> int:
    """The most that the tensors made by ``work`` take at once; on any device, by watching its operations."""
    with _Peak() as watch:
        work()
    return watch.peak
