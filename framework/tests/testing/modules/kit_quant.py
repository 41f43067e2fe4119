"""A format that keeps one scale a row, a kernel, and ways to get them wrong."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel
from torch import Tensor

from dovetail.api import LayerKind, LazyTensor
from dovetail.nn import (
    AffineWeight,
    Axis,
    Components,
    Field,
    QuantFormat,
    StoredWeight,
    WeightKernel,
    WeightName,
    read_tensor,
)


@dataclass(frozen=True, eq=False)
class RowWeight(StoredWeight):
    codes: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        return {"codes": Field(self.codes, Axis(0), Axis(1)), "scales": Field(self.scales, Axis(0))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scales[:, None]).to(dtype)

    def pack(self, packing: str) -> Any | None:
        return AffineWeight(self.codes, self.scales[:, None], None, 8, self.shape[1]) if packing == "affine" else None


class RowFormat(QuantFormat):
    kept: type[RowWeight] = RowWeight

    def components(self, weight: WeightName) -> Components | None:
        return Components((".weight", ".scales"), (".input_scale",))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        n, k = tensors[".weight"].shape
        codes, scales = read_tensor(tensors[".weight"]), read_tensor(tensors[".scales"], (n,), finite=True)
        given = tensors.get(".input_scale")
        scale = None if given is None else read_tensor(given, finite=True).to(device)
        return self.kept((n, k), "rows8", codes.to(device), scales.to(device), input_scale=scale)


class Unpacked(RowFormat):
    """Does not hand out the packing that it claims."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def pack(self, packing: str) -> None:
            return None


class WrongPack(RowFormat):
    """Hands out a packing that stands for something else."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def pack(self, packing: str) -> Any | None:
            return AffineWeight(self.codes, self.scales[:, None] * 1.01, None, 8, self.shape[1])


class Shifted(RowFormat):
    """Gives the wrong rows of a slice."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def rows(self, start: int, stop: int, dtype: torch.dtype) -> Tensor:
            return super().rows(0, self.shape[0], dtype).roll(1 if start else 0, 0)[start:stop]


class Swapped(RowFormat):
    """Joins the parts in the wrong order."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        @classmethod
        def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
            return super().join(parts[::-1][1:] + parts[-1:])


class Lonely(RowFormat):
    """Does not join the parts of one weight."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        @classmethod
        def join(cls, parts: Sequence[StoredWeight]) -> StoredWeight | None:
            return None


class Credulous(RowFormat):
    """Takes what the file holds for what was announced."""

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        codes, scales = tensors[".weight"].read(), tensors[".scales"].read()
        rows = min(len(codes), len(scales))
        return self.kept((rows, codes.shape[1]), "rows8", codes[:rows], scales[:rows])


class AnyScales(RowFormat):
    """Takes scales of any type, and any number."""

    finite = False

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        (n, k), codes = tensors[".weight"].shape, read_tensor(tensors[".weight"])
        dtypes = (torch.float32,) if self.finite else ()
        return self.kept((n, k), "rows8", codes, read_tensor(tensors[".scales"], (n,), dtypes=dtypes).float())


class BrokenScales(AnyScales):
    """Takes any number of the right type."""

    finite = True


class Unscaled(RowFormat):
    """Leaves the scale of activations in the file."""

    def load(self, *args: Any) -> StoredWeight:
        return dataclasses.replace(super().load(*args), input_scale=None)


class Unnamed(RowFormat):
    """Does not name a tensor that it needs."""

    def components(self, weight: WeightName) -> Components | None:
        return Components((".weight",))


class Misordered(RowFormat):
    """Takes the scales' type for the weight's."""

    def components(self, weight: WeightName) -> Components | None:
        return Components((".scales", ".weight"))


class Mandatory(RowFormat):
    """Calls a tensor optional that it cannot do without."""

    def components(self, weight: WeightName) -> Components | None:
        return Components((".weight",), (".scales",))


class Ignorant(RowFormat):
    """Stores no weight at all."""

    def components(self, weight: WeightName) -> Components | None:
        return None


# Wrong fields.


class Forgotten(RowFormat):
    """Does not say that its scales are tensors."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def fields(self) -> dict[str, Field]:
            return {"codes": Field(self.codes, Axis(0), Axis(1))}


class Bare(RowFormat):
    """Gives a tensor in place of a weight."""

    def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *arguments: Any) -> Any:
        return read_tensor(next(iter(tensors.values())))


class Lengthy(RowFormat):
    """Tells a shape as a list."""

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> Any:
        return list(super().shape(weight, tensors))


class Suffixed(RowFormat):
    """Names the components of a weight as they are."""

    def components(self, weight: WeightName) -> Any:
        return (".weight", ".scales")


class Hidden(RowFormat):
    """Keeps a tensor where nobody sees it."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def __post_init__(self) -> None:
            object.__setattr__(self, "cached", [self.codes.float()])


class WideUnit(RowFormat):
    """Says that two rows share a scale."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def fields(self) -> dict[str, Field]:
            return {**super().fields(), "scales": Field(self.scales, Axis(0, 2))}


class NoAxis(RowFormat):
    """Says that the scales belong to all rows."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def fields(self) -> dict[str, Field]:
            return {**super().fields(), "scales": Field(self.scales)}


class WrongTensor(RowFormat):
    """Says of the scales that they are the codes."""

    @dataclass(frozen=True, eq=False)
    class kept(RowWeight):  # noqa: N801
        def fields(self) -> dict[str, Field]:
            return {**super().fields(), "scales": Field(self.codes, Axis(0), Axis(1))}


class SquareWeight(RowWeight):
    """Scales of the columns, in a weight that has as many rows."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scales).to(dtype)

    def pack(self, packing: str) -> None:
        return None


class WrongSide(RowFormat):
    """Says of the scales of columns that they are those of rows."""

    kept = SquareWeight


# With a configuration.


class RowConfig(BaseModel):
    ignore: tuple[str, ...] = ()
    group: int


class ConfiguredFormat(RowFormat):
    """Leaves out the layers that its configuration ignores."""

    config: RowConfig

    def components(self, weight: WeightName) -> Components | None:
        return None if weight.name in self.config.ignore else super().components(weight)


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


class Disordered(Product):
    """Overlooks the order of columns."""

    def __init__(self, weight: StoredWeight, kind: LayerKind, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(weight, kind, device, dtype)
        packed = weight.pack("affine")
        if packed is not None and packed.order is not None:
            self.weight = self.weight[:, packed.order]


class Mute(Product):
    """Says no, and not why."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> Any:
        return False


class Absent(Product):
    """Forgets to return."""

    def __call__(self, x: Tensor) -> Any:
        super().__call__(x)


class Picky(Product):
    """Declines everything."""

    @classmethod
    def unsupported_reason(cls, weight: StoredWeight, kind: LayerKind) -> str | None:
        return "not today"
