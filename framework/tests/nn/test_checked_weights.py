"""Weights of a plugin's format: whatever they raise or answer wrongly is the format's, whoever called them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor, PluginError
from dovetail.kernel.blame import blame
from dovetail.kernel.plan_parts import Part
from dovetail.nn import AffineWeight, Axis, Field, QuantFormat, StoredWeight, WeightName, read_tensor
from dovetail.nn.affine import AffineKernel
from dovetail.nn.checked_parts import CheckedClasses
from dovetail.nn.dense import DenseWeight, DequantizeKernel
from dovetail.testing import lazy_tensors

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class NutWeight(StoredWeight):
    codes: Tensor  # int8 [N, K]
    group: int
    fault: str

    def fields(self) -> Any:
        return [self.codes] if self.fault == "fields" else {"codes": Field(self.codes, Axis(0), Axis(1))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        if self.fault == "dequantize":
            raise IndexError("the group 7 is not there")
        return self.codes if self.fault == "dtype" else self.codes.to(dtype)

    def pack(self, packing: str) -> AffineWeight | None:
        return AffineWeight(self.codes, torch.ones(self.shape[0], 2), None, 8, self.group)


class NutFormat(QuantFormat):
    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        codes = read_tensor(tensors[".weight"])
        return NutWeight((codes.shape[0], codes.shape[1]), "int8", codes, **self.config)


def part(kind: str, target: str) -> Part:
    return Part(kind=kind, name="nut", distribution=f"{kind}-nut", version="3.1", target=target)


def weight(fault: str = "", group: int = 4, classes: CheckedClasses | None = None) -> StoredWeight:
    made = (classes or CheckedClasses()).format(part("format", f"{__name__}:NutFormat"))
    tensors = {".weight": lazy_tensors({"a.weight": torch.arange(24, dtype=torch.int8).view(3, 8)})[0]}
    return made({"fault": fault, "group": group}).load(WeightName("a", "linear"), tensors, CPU, torch.float32)


def test_a_weight_is_what_it_was() -> None:
    whole = weight()
    assert isinstance(whole, NutWeight)
    wanted = torch.arange(24.0).view(3, 8)
    assert torch.equal(whole.dense(torch.float32), wanted)
    assert torch.equal(whole.narrow(1, 2, 6).compact().dense(torch.float32), wanted[:, 2:6])
    assert torch.equal(whole.take(torch.tensor([2, 0]), torch.float32), wanted[[2, 0]])
    joined = whole.join([whole, weight()])
    assert joined is not None
    assert torch.equal(joined.dense(torch.float32), wanted.repeat(2, 1))


@pytest.mark.parametrize(
    ("fault", "use", "told"),
    [
        ("dequantize", lambda w: w.rows(0, 1, torch.float32), "failed to dequantize a weight of type int8 and shape [1, 8]: IndexError: the group 7"),
        ("dequantize", lambda w: w.join([w, w]).dense(torch.float32), "failed to dequantize a weight of type int8 and shape [6"),
        ("dequantize", lambda w: DequantizeKernel(w, "linear", CPU, torch.float32)(torch.ones(1, 8)), "failed to dequ"),
        ("dtype", lambda w: w.dense(torch.float32), "answered dequantize() with Tensor of torch.int8 [3, 8], wanted a tens"),
        ("fields", lambda w: w.nbytes, "answered fields() with list, wanted a Field for each name"),
        ("", lambda w: w.take(torch.tensor([9]), torch.float32), "failed to reorder a weight of type int8"),
    ],
)  # fmt: skip
def test_what_a_weight_does_wrong_is_its_format_s_fault(
    fault: str, use: Callable[[StoredWeight], Any], told: str
) -> None:
    """Also within a call of another part."""
    found = weight(fault)
    with (
        pytest.raises(PluginError) as failure,
        blame(part("model", f"{__name__}:Model"), "to run"),
    ):
        use(found)
    assert str(failure.value).startswith("the format nut (format-nut 3.1) ")
    assert told in str(failure.value)
    assert "--plugins=-format-nut" in str(failure.value)


class Scaled(QuantFormat):
    """A scale for each row, and what it wants of them."""

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> StoredWeight:
        rows, columns = tensors[".weight"].shape
        read_tensor(tensors[".scales"], (rows,), finite=True)
        return DenseWeight.of(read_tensor(tensors[".weight"], (rows, columns)).to(dtype), "int8")

    def shape(self, weight: WeightName, tensors: Mapping[str, LazyTensor]) -> tuple[int, ...]:
        if len(tensors[".weight"].shape) != 2:
            raise CheckpointError(f"tensor {tensors['.weight'].name} is no matrix", "convert it again")
        return super().shape(weight, tensors)


def test_a_format_that_its_tensors_do_not_fit_is_named_with_them() -> None:
    reader = CheckedClasses().format(part("format", f"{__name__}:Scaled"))({})
    name = WeightName("a", "linear")

    def refusal(use: Callable[..., Any], *arguments: Any, **tensors: Any) -> CheckpointError:
        lazies = {f".{key}": value for key, value in tensors.items()}
        with pytest.raises(CheckpointError) as failure:
            use(name, lazies, *arguments)
        return failure.value

    weights, scales, flat = lazy_tensors(
        {"a.weight": torch.ones(4, 2).char(), "a.scales": torch.ones(3), "b.weight": torch.ones(4).char()}
    )
    found = refusal(reader.load, CPU, torch.float32, weight=weights, scales=scales)
    who = "the format nut (format-nut 3.1) cannot read a: "
    assert found.problem.startswith(f"{who}tensor a.scales is [3], wanted [4], as its quantization_config and ")
    assert found.hint.endswith("download it again")
    assert refusal(reader.shape, weight=flat).problem == f"{who}tensor b.weight is no matrix"

    def cut_off() -> Tensor:
        raise CheckpointError("the file ends early", "download it again")

    damaged = refusal(reader.load, CPU, torch.float32, weight=weights, scales=replace(scales, read=cut_off))
    assert damaged.problem == "the file ends early"


def test_a_packing_that_is_none_is_no_fault_of_its_kernel() -> None:
    """The kernel, which is the framework's own, only asked for it."""
    classes = CheckedClasses()
    kernel = classes.kernel(part("kernel", f"{AffineKernel.__module__}:AffineKernel"))
    with pytest.raises(PluginError) as failure:
        kernel.unsupported_reason(weight(group=3, classes=classes), "linear")  # type: ignore[call-arg, arg-type]
    assert str(failure.value).startswith(
        "the format nut (format-nut 3.1) failed to make the packing affine of a weight of type int8 and shape [1, 8]: "
        "ValueError: affine: a group of 3 columns does not divide 8 columns"
    )
