"""The interface between formats (which store weights) and kernels (which multiply with them).

Letters: N rows (output features, or vocabulary), K columns (input features), G groups in a row, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.api.cards import LayerKind
from dovetail.api.checkpoint import LazyTensor
from dovetail.nn.ops import Ops


@dataclass(frozen=True)
class TwoLevelScales:
    """Scales ``[N, G]`` in two levels, as in K-quants: small integers, multiplied by one float per group of
    neighbours in a row.

    It supports slicing by rows, ``to`` and ``float``, as a tensor does. Formats with small groups store their scales
    this way, which takes a quarter of the memory of float32.

    Attributes:
        units: float16 or float32 ``[N, S]``, S a divisor of G.
        codes: uint8 or int8 ``[N, G]``.
    """

    units: Tensor
    codes: Tensor

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def nbytes(self) -> int:
        return self.units.nbytes + self.codes.nbytes

    def __getitem__(self, rows: slice) -> TwoLevelScales:
        return TwoLevelScales(self.units[rows], self.codes[rows])

    def to(self, device: torch.device) -> TwoLevelScales:
        return TwoLevelScales(self.units.to(device), self.codes.to(device))

    def float(self) -> Tensor:
        """float32 ``[N, G]``; exact for float16 units."""
        codes = self.codes.float().unflatten(-1, (self.units.shape[-1], -1))  # [N, S, G/S]
        return codes.mul_(self.units.float()[..., None]).flatten(-2)


@dataclass(frozen=True)
class AffineWeight:
    """The packing ``affine``: ``w[n, k] = scales[n, k // group] * codes[n, k] + mins[n, k // group]``.

    Most integer formats can be converted to it exactly, so one kernel serves all of them.

    Attributes:
        codes: uint8 or int8 ``[N, K]``, one code an element.
        scales: ``[N, G]``, float32 or float16, or in two levels.
        mins: ``[N, G]`` likewise, or None for zero.
        bits: the codes fit in this many bits: unsigned if uint8, two's complement if int8.
        group: columns that share a scale; ``G * group == K``.
    """

    codes: Tensor
    scales: Tensor | TwoLevelScales
    mins: Tensor | TwoLevelScales | None
    bits: int
    group: int


class StoredWeight(ABC):
    """A matrix ``[N, K]`` as its format stores it in memory.

    Attributes:
        shape: ``(N, K)``.
        type: the stored type, as in :attr:`dovetail.api.LazyTensor.type`.
    """

    shape: tuple[int, int]
    type: str

    @abstractmethod
    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``[stop - start, K]``: the reference for every kernel."""

    @abstractmethod
    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        """Dequantized rows ``ids`` (int64 ``[T]``) → ``[T, K]``, as an embedding needs them."""

    @abstractmethod
    def reorder(self, order: Tensor) -> StoredWeight:
        """The weight whose row ``i`` is this one's row ``order[i]``, without dequantizing."""

    @abstractmethod
    def to(self, device: torch.device) -> StoredWeight:
        """The same weight on a device; the object itself if it is already there."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
        """One weight with the rows of all parts in order, or None if they cannot be joined (for example, different
        types).
        """

    @property
    @abstractmethod
    def nbytes(self) -> int: ...

    def pack(self, packing: str) -> Any | None:
        """This weight in a packing that the format's card lists for its type, such as ``affine``
        (:class:`AffineWeight`), or None.
        """
        return None

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix ``[N, K]``, dequantized. For tests and tools; the engine never makes one."""
        return self.rows(0, self.shape[0], dtype)


class QuantFormat(ABC):
    """Reads the tensors of one weight into a :class:`StoredWeight`.

    Args:
        config: the checkpoint's ``quantization_config``, or empty.
    """

    components: tuple[str, ...] = ("weight",)
    """Suffixes of the tensors of one weight: ``model.layers.0.mlp.up_proj.`` + each. The first tensor's stored type
    is the one in the format's card.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    @abstractmethod
    def load(self, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype) -> StoredWeight:
        """Read one weight. All of its components exist.

        Args:
            dtype: of the activations; formats of full-precision weights convert to it.

        Raises:
            CheckpointError: the tensors contradict each other or the format; names the tensor.
        """

    def shape(self, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        """The logical ``(N, K)`` of a weight, without reading it; anything but two numbers is refused."""
        return tensors[self.components[0]].shape


class WeightKernel(ABC):
    """Multiplies by one weight.

    For the kinds ``linear`` and ``head``, :meth:`__call__` maps x ``[T, K]`` to ``x @ w.T`` ``[T, N]``; for
    ``embedding`` it maps ids ``[T]`` to rows ``[T, K]``. The kernel may repack the weight once, and should then not
    keep a reference to the original.

    Attributes:
        ops: the platform's operations, set by the loader of the weight; until then the references.
    """

    ops: Ops = Ops()

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        """The reason why this kernel cannot take this weight (for example its shape), or None. With a reason, the
        next kernel of the Plan is tried.
        """
        return None

    @abstractmethod
    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None: ...

    def process_after_loading(self) -> None:
        """Called once after loading: :attr:`ops` is set, and no product was computed yet."""
        return

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Memory of the weight as the kernel stores it."""
