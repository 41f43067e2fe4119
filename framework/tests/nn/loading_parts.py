"""Contexts, checkpoints and a format of several tensors, for tests of loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import (
    Axis,
    Components,
    Context,
    Field,
    Ops,
    QuantFormat,
    StoredWeight,
    WeightName,
    read_tensor,
)
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.layers import Linear
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing import lazy_tensors

CPU = torch.device("cpu")


def context(**options: Any) -> Context:
    return Context(device=CPU, dtype=torch.float32, ops=Ops(), attention=None, max_tokens=1, **options)  # type: ignore[arg-type]


DENSE = [
    WeightChoice(kind, "float32", DenseFormat, [("dense", DenseKernel)]) for kind in ("linear", "head", "embedding")
]


def load(
    ctx: Context, tensors: Mapping[str, Tensor] | Sequence[LazyTensor], *choices: WeightChoice, **options: Any
) -> WeightReader:
    reader = WeightReader(ctx, [*choices, *DENSE], {}, **options)
    reader.load(lazy_tensors(tensors) if isinstance(tensors, Mapping) else tensors)
    return reader


def refusal(ctx: Context, tensors: Mapping[str, Tensor], *choices: WeightChoice, **options: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        load(ctx, tensors, *choices, **options)
    return error.value.problem


def matrix(layer: Linear) -> Tensor:
    """The matrix that a layer multiplies by."""
    eye = torch.eye(next(iter(layer.local_parts().values()))[1])
    return torch.cat([kernel(eye) for kernel in layer.kernels], -1).T


# A format of several tensors, whose names have dots.


@dataclass(frozen=True, eq=False)
class ScaledWeight(StoredWeight):
    """Codes int8 ``[N, K]``, and a scale for every two rows."""

    codes: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        return {"codes": Field(self.codes, Axis(0), Axis(1)), "scales": Field(self.scales, Axis(0, 2))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.codes * self.scales.repeat_interleave(2)[: self.shape[0], None]).to(dtype)


class ScaledFormat(QuantFormat):
    """Its configuration is the names of the layers that it does not store."""

    asked = 0
    suffixes: tuple[str, ...] = (".weight", ".weight.quant_state.scales")

    def components(self, weight: WeightName) -> Components | None:
        type(self).asked += 1
        return None if weight.name in self.config else Components(self.suffixes, (".g_idx",))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        assert list(tensors)[:2] == list(self.suffixes)
        codes, scales = (tensors[suffix] for suffix in self.suffixes)
        n, k = codes.shape
        return ScaledWeight((n, k), codes.type, read_tensor(codes), read_tensor(scales, (-(-n // 2),)))


class StackedFormat(ScaledFormat):
    suffixes = ("_codes", "_scales")


KERNELS = [("dequantize", DequantizeKernel)]
SCALED = WeightChoice("linear", "int8", ScaledFormat, KERNELS, ())


def scaled(
    n: int, k: int, name: str = "a", infix: str = ".weight.quant_state.scales"
) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a weight, and its matrix."""
    torch.manual_seed(n + k)
    codes, scales = torch.randint(-9, 9, (n, k), dtype=torch.int8), torch.rand(-(-n // 2))
    dense = codes * scales.repeat_interleave(2)[:n, None]
    return {f"{name}{infix}": scales, f"{name}.weight": codes}, dense
