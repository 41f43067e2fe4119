"""Weights as their format stores them in memory. They can be cut, joined and reordered without being dequantized.

Letters: N rows (output features, or vocabulary), K columns (input features), T tokens.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from dovetail.api.errors import CheckpointError


@dataclass(frozen=True)
class Axis:
    """How a tensor follows one side of the matrix: every ``entries`` indices of its dimension ``dim`` hold ``unit`` rows
    (or columns).

    One number an element has 1 and 1; a scale that 32 columns share has the unit 32; 8 rows packed in an integer have
    the unit 8; GGUF's blocks of 32 weights in 18 bytes have the unit 32 and 18 entries. The last unit may be incomplete.
    """

    dim: int
    unit: int = 1
    entries: int = 1

    def range(self, start: int, stop: int, size: int) -> tuple[int, int] | None:
        """The indices that hold rows ``start:stop`` of ``size``; None if they begin or end within a unit."""
        if start % self.unit or (stop % self.unit and stop != size):
            return None
        return start // self.unit * self.entries, -(-stop // self.unit) * self.entries


@dataclass(frozen=True)
class Field:
    """One tensor of a stored weight.

    Attributes:
        rows, columns: how it follows the matrix's rows and columns; None where it does not, as one scale for all.
    """

    data: Tensor
    rows: Axis | None = None
    columns: Axis | None = None

    def axis(self, dim: int) -> Axis | None:
        return self.columns if dim else self.rows


@dataclass(frozen=True, eq=False)
class StoredWeight(ABC):
    """A matrix ``[N, K]`` as its format stores it in memory.

    A subclass is a frozen dataclass. It says in :meth:`fields` which of its attributes are tensors and how they follow
    the matrix, and dequantizes; everything else is derived from that. Its other attributes (bits, group size) are the
    same in all weights that are joined.

    Attributes:
        shape: ``(N, K)``.
        type: the stored type, as in :attr:`dovetail.api.LazyTensor.type`.
    """

    shape: tuple[int, int]
    type: str

    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """Attribute → its tensor, for every tensor."""

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix ``[N, K]``, newly made or a view: the reference for every kernel. Only called for a few rows of
        a weight at a time.
        """

    def pack(self, packing: str) -> Any | None:
        """This weight in a packing that the format's card lists for its type, such as ``affine``
        (:class:`dovetail.nn.AffineWeight`), or None.
        """
        return None

    @property
    def input_scale(self) -> Tensor | None:
        """The scale with which activations are quantized, float32 (one, or ``[K]``); None if the checkpoint has none."""
        return None

    def narrow(self, dim: int, start: int, stop: int) -> Self:
        """Rows (``dim`` 0) or columns (1) ``start:stop``, as a view.

        Raises:
            CheckpointError: the cut is within a group that is stored together.
        """
        size, cut = self.shape[dim], {}
        if (start, stop) == (0, size):
            return self
        for name, field in self.fields().items():
            if (axis := field.axis(dim)) is None:
                continue
            if (found := axis.range(start, stop, size)) is None:
                side = ("rows", "columns")[dim]
                raise CheckpointError(
                    f"a weight of type {self.type} cannot be cut at {side} {start} and {stop} of {size}: {axis.unit} of "
                    f"them are stored together",
                    "use a number of devices that its groups can be divided by",
                )
            cut[name] = field.data.narrow(axis.dim, found[0], found[1] - found[0])
        shape = (stop - start, self.shape[1]) if dim == 0 else (self.shape[0], stop - start)
        return self._replace(shape, cut)

    def reorder(self, order: Tensor, dim: int = 0) -> Self:
        """The weight whose row ``i`` is this one's row ``order[i]``; for ``dim`` 1 of columns. An index may be repeated.

        Args:
            order: int64 ``[n]``.

        Raises:
            CheckpointError: the order divides a group that is stored together.
        """
        moved = {}
        for name, field in self.fields().items():
            if (axis := field.axis(dim)) is not None:
                indices = self._unit_order(order, axis).to(field.data.device)
                moved[name] = field.data.index_select(axis.dim, indices)
        shape = (order.numel(), self.shape[1]) if dim == 0 else (self.shape[0], order.numel())
        return self._replace(shape, moved)

    def _unit_order(self, order: Tensor, axis: Axis) -> Tensor:
        """The order of a tensor's indices for one of rows or columns."""
        units = order
        if axis.unit > 1:
            whole = order.numel() % axis.unit == 0
            grouped = order.view(-1, axis.unit) if whole else order.view(1, -1)
            within = torch.arange(grouped.shape[1], device=order.device)
            if not whole or bool((grouped != grouped[:, :1] + within).any() or (grouped[:, 0] % axis.unit).any()):
                raise CheckpointError(
                    f"a weight of type {self.type} cannot be stored in another order: {axis.unit} neighbours of it are stored together",
                    "use a checkpoint of this model in another format",
                )
            units = grouped[:, 0] // axis.unit
        if axis.entries == 1:
            return units
        return (units[:, None] * axis.entries + torch.arange(axis.entries, device=order.device)).flatten()

    def _replace(self, shape: tuple[int, int], tensors: Mapping[str, Tensor]) -> Self:
        changes: dict[str, Any] = {"shape": shape, **tensors}
        return dataclasses.replace(self, **changes)

    @classmethod
    def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
        """One weight with the rows of all parts in order. None if they cannot be joined: other types or groups, an
        incomplete unit within, or tensors that belong to the whole matrix and differ.
        """
        first = parts[0]
        if any(type(part) is not cls or not _alike(first, part) for part in parts):
            return None
        fields = [part.fields() for part in parts]
        if any(found.keys() != fields[0].keys() for found in fields):
            return None
        joined = {}
        for name, field in fields[0].items():
            data = [found[name].data for found in fields]
            if field.rows is None:
                if any(other.shape != data[0].shape or not torch.equal(other, data[0]) for other in data[1:]):
                    return None
                continue
            if any(part.shape[0] % field.rows.unit for part in parts[:-1]):
                return None
            joined[name] = torch.cat(data, field.rows.dim)
        return first._replace((sum(part.shape[0] for part in parts), first.shape[1]), joined)

    def to(self, device: torch.device) -> Self:
        """The same weight on a device; the object itself if it is already there."""
        fields = self.fields()
        if all(field.data.device == device for field in fields.values()):
            return self
        return self._replace(self.shape, {name: field.data.to(device) for name, field in fields.items()})

    def compact(self) -> Self:
        """A weight that holds no more memory than it needs: views of larger tensors are copied."""
        copies = {
            name: field.data.clone(memory_format=torch.contiguous_format)
            for name, field in self.fields().items()
            if field.data.untyped_storage().nbytes() > field.data.nbytes
        }
        return self._replace(self.shape, copies) if copies else self

    @property
    def nbytes(self) -> int:
        return sum(field.data.nbytes for field in self.fields().values())

    @property
    def row_unit(self) -> int:
        """Rows that can only be cut together."""
        return math.lcm(*(field.rows.unit for field in self.fields().values() if field.rows is not None))

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``[stop - start, K]``."""
        unit, size = self.row_unit, self.shape[0]
        first = start // unit * unit
        last = min(-(-stop // unit) * unit, size)
        return self.narrow(0, first, last).dequantize(dtype)[start - first : stop - first]

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``ids`` (int64 ``[T]``) → ``[T, K]``, as an embedding needs them."""
        unit = self.row_unit
        if unit == 1:
            return self.reorder(ids).dequantize(dtype)
        chosen = {}
        for name, field in self.fields().items():
            if (axis := field.rows) is not None:
                per = unit // axis.unit * axis.entries
                indices = ((ids // unit)[:, None] * per + torch.arange(per, device=ids.device)).flatten()
                chosen[name] = field.data.index_select(axis.dim, indices.clamp_(max=field.data.shape[axis.dim] - 1))
        groups = self._replace((ids.numel() * unit, self.shape[1]), chosen)
        wide = groups.dequantize(dtype).view(-1, unit, self.shape[1])
        return wide[torch.arange(ids.numel(), device=ids.device), ids % unit]

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix ``[N, K]``, dequantized. For tests and tools; the engine never makes one of a quantized
        weight.
        """
        return self.rows(0, self.shape[0], dtype)


def _alike(a: StoredWeight, b: StoredWeight) -> bool:
    """Whether all that is no tensor, and no number of rows, is the same."""
    tensors = {"shape", *a.fields(), *b.fields()}
    names = [field.name for field in dataclasses.fields(a) if field.name not in tensors]
    return a.shape[1] == b.shape[1] and all(getattr(a, name) == getattr(b, name) for name in names)
