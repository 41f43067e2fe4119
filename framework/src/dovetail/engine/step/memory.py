"""The memory of a device: its budget, as a record (the core plans it), and the error if there is too little."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dovetail.api.errors import ResolutionError
from dovetail.api.text import one_line
from dovetail.kernel.blame import is_out_of_memory

if TYPE_CHECKING:
    from dovetail.nn.platform import Memory


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


LESS = "take a smaller or quantized model, or lower --max-model-len, --max-num-batched-tokens, --max-num-seqs or --max-loras"


@contextmanager
def explain_out_of_memory(model: str) -> Iterator[None]:
    """Say it in one line if memory runs out while an engine starts.

    Raises:
        ResolutionError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = one_line(str(error).strip().partition("\n")[0] or "MemoryError", 200)
        raise ResolutionError(f"memory ran out while {model} was loaded ({reason})", LESS) from error


def count_elements(shapes: Iterable[tuple[int, ...]]) -> int:
    return sum(map(math.prod, shapes))


def check_random_weights(nbytes: int, memory: Memory, file: str) -> None:
    """Refuse weights that are made rather than read, if there is no memory for them. Files have their own size, and
    what a configuration asks for beyond it is missing there.

    Raises:
        ResolutionError: they take more than is free.
    """
    if nbytes > memory.free:
        raise ResolutionError(
            f"the weights that {file or 'the configuration'} describes take {format_gib(nbytes)}, and "
            f"{format_gib(memory.free)} of {format_gib(memory.total)} are free",
            "correct its sizes, or take fewer layers with --hf-overrides",
        )
