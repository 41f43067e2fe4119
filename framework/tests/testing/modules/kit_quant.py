"""A format that keeps one scale a row, a kernel, and ways to get them wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api import CheckpointError, LayerKind, LazyTensor
from dovetail.nn import AffineWeight, QuantFormat, StoredWeight, WeightKernel


class RowWeight(StoredWeight):
    type = "rows8"

    def __init__(self, codes: Tensor, scales: Tensor) -> None:
        self.codes, self.scales = codes, scales
        self.shape = (codes.shape[0], codes.shape[1])

    def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
        return (self.codes[start:stop] * self.scales[start:stop, None]).to(dtype)

    def take(self, ids: Tensor, dtype: torch.dtype) -> Tensor:
        return (self.codes[ids] * self.scales[ids, None]).to(dtype)

    def reorder(self, order: Tensor) -> StoredWeight:
        return type(self)(self.codes[order], self.scales[order])

    def to(self, device: torch.device) -> StoredWeight:
        return type(self)(self.codes.to(device), self.scales.to(device))

    @classmethod
    def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
        rows = [p for p in parts if isinstance(p, RowWeight)]
        return cls(torch.cat([p.codes for p in rows]), torch.cat([p.scales for p in rows]))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.scales.nbytes

    def pack(self, packing: str) -> Any | None:
        return AffineWeight(self.codes, self.scales[:, None], None, 8, self.shape[1]) if packing == "affine" else None


class RowFormat(QuantFormat):
    components = ("weight", "scales")
    kept: type[RowWeight] = RowWeight

    def load(self, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype) -> StoredWeight:
        for component in self.components:
            lazy = tensors[component]
            if tuple(lazy.read().shape) != lazy.shape:
                raise CheckpointError(f"{lazy.name} is not {list(lazy.shape)}")
        return self.kept(tensors["weight"].read().to(device), tensors["scales"].read().to(device))


class Unordered(RowFormat):
    """Reorders the codes and forgets the scales."""

    class kept(RowWeight):  # noqa: N801
        def reorder(self, order: Tensor) -> StoredWeight:
            return type(self)(self.codes[order], self.scales)


class Unpacked(RowFormat):
    """Does not hand out the packing that it claims."""

    class kept(RowWeight):  # noqa: N801
        def pack(self, packing: str) -> None:
            return None


class WrongPack(RowFormat):
    """Hands out a packing that stands for something else."""

    class kept(RowWeight):  # noqa: N801
        def pack(self, packing: str) -> Any | None:
            return AffineWeight(self.codes, self.scales[:, None] * 1.01, None, 8, self.shape[1])


class Shifted(RowFormat):
    """Gives the wrong rows of a slice."""

    class kept(RowWeight):  # noqa: N801
        def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
            return super().rows(0, self.shape[0], dtype).roll(1 if start else 0, 0)[start:stop]


class Swapped(RowFormat):
    """Joins the parts in the wrong order."""

    class kept(RowWeight):  # noqa: N801
        @classmethod
        def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
            return super().join(parts[::-1][1:] + parts[-1:])


class Credulous(RowFormat):
    """Takes what the file holds for what was announced."""

    def load(self, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype) -> StoredWeight:
        codes, scales = tensors["weight"].read(), tensors["scales"].read()
        rows = min(len(codes), len(scales))
        return self.kept(codes[:rows], scales[:rows])


class Product(WeightKernel):
    """A right kernel for any weight."""

    factor = 1.0

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        self.weight, self.kind = weight.dense(torch.float32).to(device) * self.factor, kind

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "embedding":
            return F.embedding(x, self.weight)
        return F.linear(x.float(), self.weight).to(x.dtype)

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class OnePercent(Product):
    factor = 1.01


class InPlace(Product):
    def __call__(self, x: Tensor) -> Tensor:
        out = super().__call__(x)
        x += 1
        return out


class Wide(Product):
    """Answers in float32 whatever it was given."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).float()


class Contiguous(Product):
    """Fails for inputs that are views."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(torch.as_strided(x, x.shape, (x.shape[-1], 1)))


class Picky(Product):
    """Declines everything."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        return "not today"
