"""How a model is cut for several devices: each rank holds its part of every weight that can be cut.

Rows of q, k, v, gate and up, columns of what follows them, after which the ranks' results are added (Shoeybi et al.,
2019, Megatron-LM); embedding and head by vocabulary; experts one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dovetail.api.errors import UsageError

Range = tuple[int, int]
"""First index, and the one after the last."""
CHANNEL_UNITS = (256, 128, 64, 32, 16, 8, 4, 2, 1)
"""Channels of an MLP are cut in multiples of the largest of these that leaves something for each rank: formats keep up
to 256 columns together. Even parts would need smaller multiples at times, which such formats cannot be cut in.
"""


class Communicator(Protocol):
    """Exchanges tensors between the ranks. All of them call the same methods, with the same shapes, in the same order.

    Every rank must receive the same bits, because each decides from them for itself what all must agree on: a token's
    experts, the next token. Nothing may be read on the host, so that a step can be captured as a graph; the shapes of
    all ranks are known without asking them.
    """

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of the ranks' tensors, in x's shape and dtype.

        Args:
            x: of one shape and dtype on all ranks, any strides. It may be overwritten, and nobody reads it afterwards,
                so the result may be x itself.
        """
        ...

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The ranks' tensors side by side.

        Args:
            x: ``[..., sizes[rank]]``, any strides; unchanged.
            sizes: of all ranks, which may differ. What only exchanges tensors of one size pads them.

        Returns:
            ``[..., sum(sizes)]``.
        """
        ...


class _Unconnected:
    """Stands where no communicator was given, which one rank never needs."""

    def all_reduce(self, x: Tensor) -> Tensor:
        raise AssertionError("ranks that share a model need a communicator")

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        raise AssertionError("ranks that share a model need a communicator")


@dataclass(frozen=True)
class HeadCut:
    """A rank's heads of one attention layer; every rank has as many.

    Attributes:
        q, kv: ranges of query and key-value heads. Key-value heads are repeated where there are fewer than ranks.
        total: query heads of all ranks.
    """

    q: Range
    kv: Range
    total: int


@dataclass(frozen=True)
class Parallel:
    """A rank's place among the ranks that share a model.

    Attributes:
        rank: from 0.
        size: number of ranks; with 1, nothing is cut and nothing is exchanged.
        communicator: may lack for one rank, and for a model that is built and not run.
    """

    rank: int = 0
    size: int = 1
    communicator: Communicator = field(default_factory=_Unconnected)

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size, f"rank {self.rank} is not one of {self.size}"

    def range(self, total: int, unit: int = 1, rank: int | None = None) -> Range:
        """A rank's part of ``total``, in multiples of ``unit`` that differ by one unit at most. The first ranks have
        more; the last one has what remains.
        """
        rank = self.rank if rank is None else rank
        units = -(-total // unit)
        each, more = divmod(units, self.size)
        start = rank * each + min(rank, more)
        return min(start * unit, total), min((start + each + (rank < more)) * unit, total)

    def sizes(self, total: int, unit: int = 1) -> list[int]:
        """The parts of all ranks."""
        return [stop - start for start, stop in (self.range(total, unit, rank) for rank in range(self.size))]

    def channels(self, total: int) -> Range:
        """This rank's part of the inner channels of an MLP, or of the rows of a vocabulary: multiples of
        :data:`CHANNEL_UNITS`, so that groups of quantized weights stay whole where that is possible.

        Raises:
            UsageError: there are fewer channels than ranks.
        """
        if total < self.size:
            raise UsageError(
                f"{total} channels cannot be divided among {self.size} devices", f"use at most {total} devices"
            )
        return self.range(total, self.channel_unit(total))

    def channel_unit(self, total: int) -> int:
        """The multiple in which :meth:`channels` cuts."""
        return next(unit for unit in CHANNEL_UNITS if (total % unit == 0 and total // unit >= self.size) or unit == 1)

    def heads(self, num_heads: int, num_kv_heads: int) -> HeadCut:
        """This rank's heads.

        Raises:
            UsageError: the heads cannot be divided so that each query head is with its key-value head.
        """
        if not _divides(self.size, num_heads, num_kv_heads):
            fitting = [str(size) for size in range(1, num_heads + 1) if _divides(size, num_heads, num_kv_heads)]
            raise UsageError(
                f"{num_heads} query heads and {num_kv_heads} key-value heads cannot be divided among {self.size} devices",
                f"use {', '.join(fitting)} of them",
            )
        q = self.range(num_heads)
        if num_kv_heads >= self.size:
            return HeadCut(q, self.range(num_kv_heads), num_heads)
        first = self.rank * num_kv_heads // self.size
        return HeadCut(q, (first, first + 1), num_heads)


def _divides(size: int, num_heads: int, num_kv_heads: int) -> bool:
    """Whether so many ranks can have as many query heads each, with whole key-value heads or a repeated one."""
    return num_heads % size == 0 and (num_kv_heads % size == 0 or size % num_kv_heads == 0)


@dataclass(frozen=True)
class RowCut:
    """A rank keeps some rows of each part of a layer.

    Attributes:
        ranges: part → its ranges of rows, in order. Parts that are not named are kept whole.
    """

    ranges: dict[str, tuple[Range, ...]]


@dataclass(frozen=True)
class ColumnCut:
    """A rank keeps some columns of a layer's weight, and the ranks' products are added. Its input has the same channels.

    Attributes:
        ranges: in order.
    """

    ranges: tuple[Range, ...]


Cut = RowCut | ColumnCut | None
"""None: every rank has the whole layer."""


def length(ranges: Sequence[Range]) -> int:
    """Number of indices in ranges."""
    return sum(stop - start for start, stop in ranges)


def take(x: Tensor, ranges: Sequence[Range], dim: int) -> Tensor:
    """A copy of the indices in ranges of one dimension."""
    return torch.cat([x.narrow(dim, start, stop - start) for start, stop in ranges], dim)
