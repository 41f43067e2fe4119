"""The memory budget of a device, as a record; the core plans it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MemoryBudget:
    """The memory of a device, in bytes, and how the engine divides it.

    Attributes:
        total, free: of the device, free after loading the weights and before allocating the cache.
        weights: as the kernels store them.
        activations: the maximum that a step needs in addition.
        graphs: captured steps.
        cache: the KV cache.
        tokens: that fit into the cache, or None if its size does not limit them.
    """

    total: int
    free: int
    weights: int
    activations: int
    graphs: int
    cache: int
    tokens: int | None

    def __str__(self) -> str:
        graphs = f", graphs {format_gib(self.graphs)}" if self.graphs else ""
        tokens = "" if self.tokens is None else f" for {self.tokens:,} tokens"
        return (
            f"weights {format_gib(self.weights)}; of the {format_gib(self.free)} that were free beside them, activations "
            f"{format_gib(self.activations)}{graphs}, KV cache {format_gib(self.cache)}{tokens}"
        )


def format_gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"
