"""Weights as their format stores them in memory. They can be cut, joined and reordered without being dequantized.

Letters: N rows (output features, or vocabulary), K columns (input features), T tokens.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor

from dovetail.api.errors import CheckpointError

SIDES = ("rows", "columns")


@dataclass(frozen=True)
class Axis:
    """How a tensor follows one side of the matrix: every ``entries`` indices of its dimension ``dim`` hold ``unit`` rows
    (or columns).

    One number an element has 1 and 1; a scale that 32 columns share has the unit 32; 8 rows packed in an integer have
    the unit 8; blocks of 32 weights in 18 bytes have the unit 32 and 18 entries. The last unit may be incomplete.
    """

    dim: int
    unit: int = 1
    entries: int = 1

    def length(self, size: int) -> int:
        """The number of indices that hold ``size`` rows."""
        return -(-size // self.unit) * self.entries

    def range(self, start: int, stop: int, size: int) -> tuple[int, int] | None:
        """The indices that hold rows ``start:stop`` of ``size``; None if they begin or end within a unit."""
        if start % self.unit or (stop % self.unit and stop != size):
            return None
        return self.length(start), self.length(stop)


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
        input_scale: the scale with which activations are quantized, float32 (one, or ``[K]``); None if the checkpoint
            has none. It is no part of :meth:`fields`, and is cut and moved all the same.
    """

    shape: tuple[int, int]
    type: str
    input_scale: Tensor | None = field(default=None, kw_only=True)

    @abstractmethod
    def fields(self) -> Mapping[str, Field]:
        """Attribute → its tensor, for every tensor of the matrix that is not None."""

    @abstractmethod
    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The matrix ``[N, K]``, newly made or a view: the reference for every kernel. Only called for a few rows of
        a weight at a time, and at least one.
        """

    def pack(self, packing: str) -> Any | None:
        """This weight in a packing that the format's card lists for its type, such as ``affine``
        (:class:`dovetail.nn.AffineWeight`). None for a packing that it does not list, and for a weight that cannot be
        converted exactly, which the reference kernel then multiplies.
        """
        return None

    def all_fields(self) -> dict[str, Field]:
        """:meth:`fields` and the scale of activations."""
        found = dict(self.fields())
        if self.input_scale is not None:
            one = self.input_scale.numel() == 1
            found["input_scale"] = Field(self.input_scale, columns=None if one else Axis(0))
        return found

    def narrow(self, dim: int, start: int, stop: int) -> Self:
        """Rows (``dim`` 0) or columns (1) ``start:stop``, as a view.

        Raises:
            CheckpointError: the cut is within a group that is stored together.
        """
        size, cut = self.shape[dim], {}
        if (start, stop) == (0, size):
            return self
        for name, part in self.all_fields().items():
            if (axis := part.axis(dim)) is None:
                continue
            if (found := axis.range(start, stop, size)) is None:
                raise CheckpointError(
                    f"a weight of type {self.type} cannot be cut at {SIDES[dim]} {start} and {stop} of {size}: "
                    f"{axis.unit} of them are stored together",
                    "use a number of devices that its groups can be divided by, or a checkpoint in another format",
                )
            cut[name] = part.data.narrow(axis.dim, found[0], found[1] - found[0])
        return self._replace(self._shape(dim, stop - start), cut)

    def first_rows(self) -> Self:
        """The fewest rows that can be cut, as a view: what a kernel needs to see how a weight is packed."""
        return self.narrow(0, 0, min(self.row_unit, self.shape[0]))

    def reorder(self, order: Tensor, dim: int = 0) -> Self:
        """The weight whose row ``i`` is this one's row ``order[i]``; for ``dim`` 1 of columns. An index may be repeated.

        Args:
            order: int64 ``[n]``.

        Raises:
            CheckpointError: the order divides a group that is stored together.
        """
        moved = {}
        for name, part in self.all_fields().items():
            if (axis := part.axis(dim)) is not None:
                indices = self._unit_order(order, dim, axis).to(part.data.device)
                moved[name] = part.data.index_select(axis.dim, indices)
        return self._replace(self._shape(dim, order.numel()), moved)

    def _unit_order(self, order: Tensor, dim: int, axis: Axis) -> Tensor:
        """The order of a tensor's indices for one of rows or columns."""
        units = order
        if axis.unit > 1:
            starts, size = order[:: axis.unit], self.shape[dim]
            whole = (starts[:, None] + torch.arange(axis.unit, device=order.device)).flatten()[: order.numel()]
            # An incomplete last unit can only be the last one again.
            rest = order.numel() % axis.unit
            if bool((order != whole).any() or (starts % axis.unit).any()) or (
                rest and int(order[-rest]) + rest != size
            ):
                raise CheckpointError(
                    f"{SIDES[dim]} of a weight of type {self.type} cannot be stored in another order: {axis.unit} of "
                    f"them are stored together",
                    "use a checkpoint of this model in another format",
                )
            units = starts // axis.unit
        if axis.entries == 1:
            return units
        return (units[:, None] * axis.entries + torch.arange(axis.entries, device=order.device)).flatten()

    def _shape(self, dim: int, size: int) -> tuple[int, int]:
        return (size, self.shape[1]) if dim == 0 else (self.shape[0], size)

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
        joined = {}
        for name, one in first.all_fields().items():
            data = [part.all_fields()[name].data for part in parts]
            if one.rows is None:
                if not all(_same(data[0], other) for other in data[1:]):
                    return None
                continue
            if any(part.shape[0] % one.rows.unit for part in parts[:-1]):
                return None
            joined[name] = torch.cat(data, one.rows.dim)
        return first._replace(first._shape(0, sum(part.shape[0] for part in parts)), joined)

    def to(self, device: torch.device) -> Self:
        """The same weight on a device; the object itself if it is already there."""
        fields = self.all_fields()
        if all(part.data.device == device for part in fields.values()):
            return self
        return self._replace(self.shape, {name: part.data.to(device) for name, part in fields.items()})

    def compact(self) -> Self:
        """A weight that holds no more memory than it needs: views of larger tensors are copied."""
        copies = {
            name: part.data.clone(memory_format=torch.contiguous_format)
            for name, part in self.all_fields().items()
            if part.data.untyped_storage().nbytes() > part.data.nbytes
        }
        return self._replace(self.shape, copies) if copies else self

    @property
    def nbytes(self) -> int:
        return sum(part.data.nbytes for part in self.all_fields().values())

    @property
    def row_unit(self) -> int:
        """Rows that can only be cut together."""
        return math.lcm(*(part.rows.unit for part in self.all_fields().values() if part.rows is not None))

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``[stop - start, K]``."""
        if start == stop:
            return self._none(dtype)
        if (start, stop) == (0, self.shape[0]):
            return self.dequantize(dtype)
        unit, size = self.row_unit, self.shape[0]
        first = start // unit * unit
        last = min(-(-stop // unit) * unit, size)
        return self.narrow(0, first, last).dequantize(dtype)[start - first : stop - first]

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``ids`` (int64 ``[T]``) → ``[T, K]``, as an embedding needs them."""
        if ids.numel() == 0:
            return self._none(dtype)
        unit = self.row_unit
        if unit == 1:
            return self.reorder(ids).dequantize(dtype)
        chosen = {}
        for name, part in self.all_fields().items():
            if (axis := part.rows) is not None:
                per = unit // axis.unit * axis.entries
                indices = ((ids // unit)[:, None] * per + torch.arange(per, device=ids.device)).flatten()
                # Of an incomplete last unit, whatever is there: its missing rows are not asked for.
                indices = indices.clamp_(max=part.data.shape[axis.dim] - 1)
                chosen[name] = part.data.index_select(axis.dim, indices)
        groups = self._replace((ids.numel() * unit, self.shape[1]), chosen)
        wide = groups.dequantize(dtype).reshape(-1, unit, self.shape[1])
        return wide[torch.arange(ids.numel(), device=ids.device), ids % unit]

    def _none(self, dtype: torch.dtype) -> Tensor:
        """No rows. Formats are not asked for them, since sizes of empty tensors cannot be inferred."""
        devices = {part.data.device for part in self.all_fields().values()}
        return torch.empty(0, self.shape[1], dtype=dtype, device=devices.pop())

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix ``[N, K]``, dequantized. For tests and tools; the engine never makes one of a quantized
        weight.
        """
        return self.rows(0, self.shape[0], dtype)


def _alike(a: StoredWeight, b: StoredWeight) -> bool:
    """Whether two weights of one class differ in their numbers alone, and in that of their rows."""
    ours, theirs = a.all_fields(), b.all_fields()
    if ours.keys() != theirs.keys() or a.shape[1] != b.shape[1]:
        return False
    for name, one in ours.items():
        other = theirs[name]
        if (one.rows, one.columns, one.data.dtype) != (other.rows, other.columns, other.data.dtype):
            return False
        if one.data.device != other.data.device:
            return False
    names = [f.name for f in dataclasses.fields(a) if f.name not in {"shape", *ours}]
    return all(getattr(a, name) == getattr(b, name) for name in names)


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one dtype have the same bits. (Not all dtypes can be compared as numbers.)"""
    return a.shape == b.shape and torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8))
