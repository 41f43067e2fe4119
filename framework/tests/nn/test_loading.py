"""Loading weights: how a checkpoint may store them, and what is told meanwhile."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dovetail.api import CheckpointError, LazyTensor, ResolutionError
from dovetail.nn import (
    Axis,
    ColumnCut,
    Components,
    Context,
    ExpertsKernel,
    ExpertWeights,
    Field,
    Ops,
    Parallel,
    QuantFormat,
    RowCut,
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


def test_progress_goes_by_the_weights_sizes() -> None:
    ctx = context()
    ctx.linear("small", 4, 2)
    ctx.linear("large", 8, 10)
    reader = WeightReader(ctx, DENSE, {})
    told: list[tuple[int, int]] = []
    tensors = lazy_tensors({"small.weight": torch.zeros(2, 4), "large.weight": torch.zeros(10, 8)})
    reader.load(tensors, lambda done, total: told.append((done, total)))
    assert told == [(0, 88), (8, 88), (88, 88)]


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


def test_components_may_have_dots_and_come_in_any_order() -> None:
    tensors, dense = scaled(5, 4)
    ctx = context()
    layer = ctx.linear("a", 4, 5)
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(layer), dense)


def test_two_formats_share_a_checkpoint_weight_by_weight() -> None:
    tensors, dense = scaled(6, 4, "a")
    plain = torch.randn(3, 4)
    ctx = context()
    first, second = ctx.linear("a", 4, 6), ctx.linear("b", 4, 3)
    reader = load(ctx, {**tensors, "b.weight": plain}, dataclasses.replace(SCALED, config=("b",)))
    assert torch.equal(matrix(first), dense)
    assert torch.equal(matrix(second), plain)
    assert reader.used == {"dequantize": 1, "dense": 1}


def test_parts_of_a_layer_may_be_stored_in_two_formats() -> None:
    tensors, dense = scaled(6, 4, "q")
    plain = torch.randn(3, 4)
    ctx = context()
    layer = ctx.linear({"q": 6, "k": 3}, 4)
    load(ctx, {**tensors, "k.weight": plain}, dataclasses.replace(SCALED, config=("k",)))
    assert torch.equal(matrix(layer), torch.cat([dense, plain]))
    assert len(layer.kernels) == 2


class OtherWeight(ScaledWeight):
    pass


class OtherFormat(ScaledFormat):
    suffixes = (".weight", ".other")

    def load(self, *args: Any) -> StoredWeight:
        found = super().load(*args)
        assert isinstance(found, ScaledWeight)
        return OtherWeight(found.shape, found.type, found.codes, found.scales)


class OnlyOther(DequantizeKernel):
    def __init__(self, weight: StoredWeight, *args: Any) -> None:
        assert type(weight) is OtherWeight
        super().__init__(weight, *args)


def test_weights_of_one_type_in_two_formats_keep_their_kernels() -> None:
    first, dense = scaled(4, 4, "q")
    second, other = scaled(6, 4, "k", ".other")
    choice = WeightChoice("linear", "int8", OtherFormat, [("only-other", OnlyOther)], ())
    ctx = context()
    layer = ctx.linear({"q": 4, "k": 6}, 4)
    reader = load(ctx, {**first, **second}, SCALED, choice)
    assert torch.equal(matrix(layer), torch.cat([dense, other]))
    assert reader.used == {"dequantize": 1, "only-other": 1}


def test_formats_are_asked_once_for_each_weight() -> None:
    ctx = context()
    tensors: dict[str, Tensor] = {}
    for i in range(20):
        ctx.linear(f"l.{i}", 4, 6)
        tensors |= scaled(6, 4, f"l.{i}")[0]
    asked = ScaledFormat.asked
    load(ctx, tensors, SCALED, WeightChoice("head", "int8", ScaledFormat, KERNELS, ()))
    assert ScaledFormat.asked - asked == 20


# What is missing, and what is too much.


def test_a_missing_component_is_named_with_its_tensor() -> None:
    tensors, _ = scaled(5, 4)
    ctx = context()
    ctx.linear("a", 4, 5)
    text = refusal(ctx, {"a.weight": tensors["a.weight"]}, SCALED)
    assert "(missing: a.weight.quant_state.scales)" in text
    text = refusal(ctx, {"a.weight.quant_state.scales": tensors["a.weight.quant_state.scales"]}, SCALED)
    assert "(missing: a.weight)" in text


def test_all_missing_components_are_named() -> None:
    class Three(ScaledFormat):
        suffixes = (".codes", ".scales", ".zeros")

    ctx = context()
    ctx.linear("a", 4, 5)
    choice = WeightChoice("linear", "int8", Three, KERNELS, ())
    text = refusal(ctx, {"a.codes": torch.ones(5, 4).char()}, choice)
    assert "(missing: a.scales, a.zeros)" in text
    assert "(missing: a.weight)" in refusal(ctx, {}, choice)


def test_tensors_that_the_format_does_not_know_are_unexpected() -> None:
    tensors, _ = scaled(5, 4)
    ctx = context()
    ctx.linear("a", 4, 5)
    ctx.linear("b", 4, 3)
    given = {**tensors, "b.weight": torch.ones(3, 4), "b.g_idx": torch.ones(4).int(), "a.mystery": torch.ones(1)}
    assert "(unexpected: a.mystery, b.g_idx)" in refusal(ctx, given, dataclasses.replace(SCALED, config=("b",)))


def test_a_type_that_no_format_of_the_plan_reads_is_named() -> None:
    ctx = context()
    ctx.linear("a", 4, 5)
    with pytest.raises(
        ResolutionError, match=r"for the linear layer made of a\.weight \(int16\), found none in the plan"
    ):
        load(ctx, {"a.weight": torch.ones(5, 4).short()}, SCALED)


def test_why_no_format_reads_a_weight_is_said_nearest_first() -> None:
    tensors, _ = scaled(5, 4)
    scale = "a.weight.quant_state.scales"
    for given, choice, told in (
        (
            {"a.weight": torch.ones(5, 4).short(), scale: tensors[scale]},
            SCALED,
            "found none in the plan: scaled wants int8 for .weight, found int16; DenseFormat wants float32 for .weight, ",
        ),
        (
            tensors,
            dataclasses.replace(SCALED, config=("a",)),
            "scaled leaves a out by its configuration, but found a.w",
        ),
    ):
        ctx = context()
        ctx.linear("a", 4, 5)
        with pytest.raises(ResolutionError) as error:
            load(ctx, given, dataclasses.replace(choice, name="scaled"))
        assert told in error.value.problem


def test_a_missing_component_is_told_with_its_format_and_no_advice_about_the_architecture() -> None:
    tensors, _ = scaled(5, 4)
    ctx = context()
    ctx.linear("a", 4, 5)
    with pytest.raises(CheckpointError) as error:
        load(ctx, {"a.weight": tensors["a.weight"]}, SCALED)
    assert error.value.problem.endswith("): ScaledFormat wants .weight.quant_state.scales beside a.weight")
    assert "quantization_config disagree" in error.value.hint
    assert "architecture" not in error.value.hint


def test_a_layer_that_is_left_out_by_the_configuration_but_quantized_is_told() -> None:
    class Packed(ScaledFormat):
        suffixes = (".codes", ".scales")

    ctx = context()
    ctx.linear("a", 4, 5)
    ctx.linear("b", 4, 5)
    parts = {".codes": torch.ones(5, 4).char(), ".scales": torch.ones(3)}
    tensors = {name + suffix: value for name in "ab" for suffix, value in parts.items()}
    choice = WeightChoice("linear", "int8", Packed, KERNELS, ("b",), "packed")
    text = refusal(ctx, tensors, choice)
    assert "(missing: b.weight): packed leaves b out by its configuration, but found b.codes, b.scales" in text


def test_tensors_of_a_format_that_the_configuration_does_not_name_are_recognised() -> None:
    ctx = context()
    ctx.linear("a", 4, 5)
    tensors = {"a.qweight": torch.ones(5, 4).int(), "a.scales": torch.ones(5)}
    with pytest.raises(CheckpointError) as error:
        load(ctx, tensors, unread={"int32": ("packed", "other")})
    assert "): tensors of type int32 such as a.qweight are those of the format packed or other" in error.value.problem
    assert "no quantization_config" in error.value.hint
    assert "those of the format" not in refusal(ctx, tensors)


def test_formats_are_not_asked_for_kinds_that_they_do_not_claim() -> None:
    class Strict(ScaledFormat):
        def components(self, weight: WeightName) -> Components | None:
            assert weight.kind == "linear"
            return super().components(weight)

    tensors, dense = scaled(5, 4)
    ctx = context()
    ctx.embedding("e", 3, 4)
    layer = ctx.linear("a", 4, 5)
    load(ctx, {**tensors, "e.weight": torch.ones(3, 4)}, WeightChoice("linear", "int8", Strict, KERNELS, ()))
    assert torch.equal(matrix(layer), dense)


@pytest.mark.parametrize(
    ("value", "wants", "told"),
    [
        (torch.ones(3).int(), {"finite": True}, "tensor a is of type int32, wanted a floating-point one"),
        (torch.tensor([1, torch.nan]), {"finite": True}, "tensor a holds a number that is infinite or not a number"),
        (torch.tensor([torch.inf]).half(), {"finite": True}, "tensor a holds a number that is infinite"),
        (torch.ones(3).short(), {"dtypes": (torch.int32,)}, "tensor a is of type int16, wanted int32"),
        (torch.ones(3), {"below": 2}, "tensor a is of type float32, wanted one of integers"),
        (torch.tensor([-1, 1]), {"below": 2}, "tensor a holds numbers from -1 to 1, wanted 0 to 1"),
        (torch.tensor([0, 2]), {"below": 2}, "tensor a holds numbers from 0 to 2, wanted 0 to 1"),
        (torch.ones(4), {"shape": (3,)}, "as its quantization_config and the other tensors of its weight say"),
    ],
)
def test_what_a_tensor_has_to_be_is_checked(value: Tensor, wants: dict[str, Any], told: str) -> None:
    (lazy,) = lazy_tensors({"a": value})
    with pytest.raises(CheckpointError) as error:
        read_tensor(lazy, **wants)
    assert told in error.value.problem


def test_a_tensor_that_is_as_wanted_is_read() -> None:
    for value, wants in (
        (torch.ones(2, 1), {"finite": True, "shape": (2,)}),
        (torch.tensor([0, 1]), {"below": 2, "dtypes": (torch.int32, torch.int64)}),
        (torch.ones(2).to(torch.float8_e4m3fn), {"finite": True}),
    ):
        (lazy,) = lazy_tensors({"a": value})
        assert read_tensor(lazy, **wants).shape == (2,)


def test_auxiliary_tensors_may_have_any_dtype() -> None:
    tensors, dense = scaled(4, 4)
    ctx = context()
    layer = ctx.linear("a", 4, 4)
    tensors["a.weight.quant_state.scales"] = torch.tensor([1.0, 2.0]).to(torch.float8_e8m0fnu)

    class Float8(ScaledFormat):
        def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *args: Any) -> StoredWeight:
            scales = tensors[self.suffixes[1]]
            wide = lazy_tensors({scales.name: scales.read().float()})[0]
            return super().load(weight, {**tensors, self.suffixes[1]: wide}, *args)

    load(ctx, tensors, WeightChoice("linear", "int8", Float8, KERNELS, ()))
    assert torch.equal(matrix(layer), tensors["a.weight"] * torch.tensor([1.0, 1.0, 2.0, 2.0])[:, None])
    assert dense.shape == (4, 4)


def test_wrong_shapes_are_all_named() -> None:
    tensors, _ = scaled(5, 4)
    ctx = context()
    ctx.linear("a", 4, 7, bias=True)
    ctx.linear("b", 4, 3)
    ctx.norm("n", 6, 1e-6)
    given = {**tensors, "a.bias": torch.ones(3), "b.weight": torch.ones(4, 3), "n.weight": torch.ones(5)}
    text = refusal(ctx, given, SCALED)
    for fault in (
        "a.bias is [3], wanted [7]",
        "a.weight is [5, 4], wanted [7, 4]",
        "b.weight is [4, 3], wanted [3, 4]",
        "n.weight is [5], wanted [6]",
    ):
        assert fault in text


def test_a_plain_tensor_that_is_not_as_announced_is_named() -> None:
    ctx = context()
    ctx.norm("n", 6, 1e-6)
    lazy = LazyTensor("n.weight", (6,), "float32", lambda: torch.ones(5))
    with pytest.raises(
        CheckpointError, match=r"tensor n\.weight was announced as float32 \[6\], but reads as float32 \[5\]"
    ):
        load(ctx, [lazy])


def test_damage_within_a_weight_is_named() -> None:
    tensors, _ = scaled(6, 4)
    tensors["a.weight.quant_state.scales"] = torch.ones(5)
    ctx = context()
    ctx.linear("a", 4, 6)
    with pytest.raises(CheckpointError, match=r"tensor a\.weight\.quant_state\.scales is \[5\], wanted \[3\]"):
        load(ctx, tensors, SCALED)


# Weights that are stored together.


def qkv(ctx: Context, **options: Any) -> Linear:
    layer = ctx.linear({"q": 6, "k": 2, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"), **options)
    return layer


def test_weights_stored_as_one_are_read_as_one() -> None:
    ctx = context()
    layer = qkv(ctx)
    whole = torch.randn(10, 4)
    load(ctx, {"qkv.weight": whole})
    assert torch.equal(matrix(layer), whole)
    kernel = layer.kernels[0]
    assert isinstance(kernel, DenseKernel)
    assert kernel.weight.data_ptr() == whole.data_ptr()  # a mapped file stays mapped
    ctx = context()
    layer = qkv(ctx)
    load(ctx, {f"{part}.weight": rows for part, rows in zip("qkv", whole.split((6, 2, 2)), strict=True)})
    assert torch.equal(matrix(layer), whole)


def test_groups_that_cross_the_parts_of_a_layer_are_no_matter_if_nothing_cuts_them() -> None:
    tensors, dense = scaled(10, 4, "qkv")
    ctx = context()
    layer = ctx.linear({"q": 5, "k": 3, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(layer), dense)
    ctx = context()
    ctx.linear("q", 4, 5)
    ctx.linear({"k": 3, "v": 2}, 4)
    ctx.stored_together("qkv", ("q", "k", "v"))
    with pytest.raises(
        CheckpointError, match=r"^q: a weight of type int8 cannot be cut at rows 0 and 5 of 10: 2 of them"
    ):
        load(ctx, tensors, SCALED)


def test_parts_of_one_tensor_may_be_those_of_several_layers() -> None:
    ctx = context()
    first, second = ctx.linear("gate", 4, 6), ctx.linear("up", 4, 6)
    ctx.stored_together("both", ("gate", "up"))
    tensors, dense = scaled(12, 4, "both")
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(first), dense[:6])
    assert torch.equal(matrix(second), dense[6:])
    kernel = first.kernels[0]
    assert isinstance(kernel, DequantizeKernel)
    assert isinstance(kernel.weight, ScaledWeight)
    assert kernel.weight.codes.untyped_storage().nbytes() == 24  # the part alone


def test_rows_of_the_parts_may_alternate() -> None:
    ctx = context()
    layer = ctx.linear({"gate": 6, "up": 6}, 4)
    ctx.stored_together("both", ("gate", "up"), alternating=True)
    whole = torch.randn(12, 4)
    load(ctx, {"both.weight": whole})
    assert torch.equal(matrix(layer), torch.cat([whole[::2], whole[1::2]]))


def test_a_weight_that_is_stored_twice_is_refused() -> None:
    ctx = context()
    qkv(ctx)
    assert "(unexpected: k.weight)" in refusal(ctx, {"qkv.weight": torch.ones(10, 4), "k.weight": torch.ones(2, 4)})


def test_one_of_two_forms_is_too_many() -> None:
    def model() -> tuple[Context, Linear]:
        ctx = context()
        layer = qkv(ctx)
        ctx.stored_together("kv", ("k", "v"))
        return ctx, layer

    q, kv = torch.randn(6, 4), torch.randn(4, 4)
    ctx, layer = model()
    load(ctx, {"q.weight": q, "kv.weight": kv})
    assert torch.equal(matrix(layer), torch.cat([q, kv]))
    ctx, _ = model()
    text = refusal(ctx, {"qkv.weight": torch.cat([q, kv]), "kv.weight": kv})
    assert "unexpected: qkv.weight" in text


@pytest.mark.parametrize(("required", "names"), [(True, "qkv.weight"), (False, "q.weight, k.weight, v.weight")])
def test_what_is_missing_has_the_name_that_checkpoints_have(required: bool, names: str) -> None:
    ctx = context()
    qkv(ctx, required=required)
    assert f"(missing: {names})" in refusal(ctx, {})
    assert list(WeightReader(ctx, DENSE, {}).expected()) == names.split(", ")


def test_a_wrong_shape_of_several_weights_is_that_of_their_tensor() -> None:
    ctx = context()
    qkv(ctx)
    assert "qkv.weight is [9, 4], wanted [10, 4]" in refusal(ctx, {"qkv.weight": torch.ones(9, 4)})


# Transposed weights and other orders of rows.


def test_full_precision_matrices_may_be_transposed() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    stored = torch.randn(4, 6)
    load(ctx, {"a.weight": stored})
    assert torch.equal(matrix(layer), stored.T)
    assert WeightReader(ctx, DENSE, {}).expected() == {"a.weight": (4, 6)}
    ctx = context()
    ctx.linear("a", 4, 6, transposed=True)
    assert "a.weight is [4, 6], wanted [6, 4]" in refusal(ctx, {"a.weight": torch.ones(6, 4)})


def test_quantized_matrices_are_not_transposed_nor_are_their_scales() -> None:
    class Wide(ScaledFormat):
        """Scales that look like a full-precision matrix."""

        def load(self, weight: WeightName, tensors: Mapping[str, LazyTensor], *args: Any) -> StoredWeight:
            scales = tensors[self.suffixes[1]]
            assert scales.shape == scales.read().shape == (3, 1)
            return super().load(weight, tensors, *args)

    tensors, dense = scaled(6, 4)
    tensors["a.weight.quant_state.scales"] = tensors["a.weight.quant_state.scales"][:, None]
    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    load(ctx, tensors, WeightChoice("linear", "int8", Wide, KERNELS, ()))
    assert torch.equal(matrix(layer), dense)


ORDER = torch.tensor([4, 5, 0, 1, 2, 3])


def test_rows_of_a_checkpoint_may_be_in_another_order() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6, row_order=ORDER, bias=True)
    whole, bias = torch.randn(6, 4), torch.randn(6)
    load(ctx, {"a.weight": whole, "a.bias": bias})
    assert torch.equal(matrix(layer), whole[ORDER])
    assert torch.equal(layer.bias, bias[ORDER])  # type: ignore[arg-type]
    tensors, dense = scaled(6, 4)
    ctx = context()
    layer = ctx.linear("a", 4, 6, row_order=ORDER)
    load(ctx, tensors, SCALED)  # groups of two rows stay together
    assert torch.equal(matrix(layer), dense[ORDER])


def test_an_order_that_divides_groups_is_refused_by_name() -> None:
    tensors, _ = scaled(6, 4)
    ctx = context()
    ctx.linear("a", 4, 6, row_order=ORDER.flip(0))
    with pytest.raises(CheckpointError, match=r"^a: rows of a weight of type int8 cannot be stored in another order"):
        load(ctx, tensors, SCALED)


# Cuts.


def test_cuts_are_those_of_the_matrix_and_copied() -> None:
    tensors, dense = scaled(8, 6)
    ctx = context(parallel=Parallel(1, 2))
    rows = ctx.linear("a", 6, 8, cut=RowCut({"a": ((2, 4), (6, 8))}))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(rows), torch.cat([dense[2:4], dense[6:8]]))
    ctx = context(parallel=Parallel(1, 2))
    columns = ctx.linear("a", 6, 8, cut=ColumnCut(((3, 6),)))
    load(ctx, tensors, SCALED)
    assert torch.equal(matrix(columns), dense[:, 3:])
    kernel = columns.kernels[0]
    assert isinstance(kernel, DequantizeKernel)
    assert isinstance(kernel.weight, ScaledWeight)
    assert kernel.weight.codes.untyped_storage().nbytes() == 24


def test_a_cut_within_a_group_is_refused_by_name() -> None:
    tensors, _ = scaled(8, 6)
    ctx = context(parallel=Parallel(0, 2))
    ctx.linear("a", 6, 8, cut=RowCut({"a": ((0, 3),)}))
    with pytest.raises(CheckpointError, match=r"^a: a weight of type int8 cannot be cut at rows 0 and 3 of 8"):
        load(ctx, tensors, SCALED)


# Stacks of experts.


class Keep(ExpertsKernel):
    """Keeps the weights that it was made of."""

    def __init__(self, weights: ExpertWeights, *_: Any) -> None:
        self.weights = weights

    def __call__(self, x: Tensor, ids: Tensor, weights: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        return 0


KEEP: list[tuple[str, Any]] = [("keep", Keep)]
EXPERTS = [
    WeightChoice("experts", "float32", DenseFormat, KEEP),
    WeightChoice("experts", "int8", StackedFormat, KEEP, ()),
]


def experts(count: int = 3, **options: Any) -> tuple[Context, Callable[[], ExpertWeights]]:
    """A layer of experts ``[6, 4]`` whose checkpoints may stack them, and what its kernel got."""
    ctx = context(**options)
    names = [(f"e.{i}.gate", f"e.{i}.up", f"e.{i}.down") for i in range(count)]
    layer = ctx.experts(names, 4, 6, 2)
    ctx.stored_together("e.gate_up", [(gate, up) for gate, up, _ in names])
    ctx.stored_together("e.down", [(down,) for _, _, down in names])

    def kept() -> ExpertWeights:
        assert isinstance(layer.kernel, Keep)
        return layer.kernel.weights

    return ctx, kept


def counted(tensors: Mapping[str, Tensor], reads: list[str]) -> Iterator[LazyTensor]:
    for lazy in lazy_tensors(tensors):

        def read(lazy: LazyTensor = lazy) -> Tensor:
            reads.append(lazy.name)
            return lazy.read()

        yield dataclasses.replace(lazy, read=read)


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_a_stack_is_read_once_with_or_without_a_suffix(suffix: str) -> None:
    ctx, kept = experts()
    gate_up, down = torch.randn(3, 12, 4), torch.randn(3, 4, 6)
    reads: list[str] = []
    stored = {f"e.gate_up{suffix}": gate_up, f"e.down{suffix}": down}
    load(ctx, list(counted(stored, reads)), *EXPERTS)
    assert sorted(reads) == sorted(stored)
    for i in range(3):
        assert torch.equal(kept().gate[i].dense(torch.float32), gate_up[i, :6])
        assert torch.equal(kept().up[i].dense(torch.float32), gate_up[i, 6:])
        assert torch.equal(kept().down[i].dense(torch.float32), down[i])


def test_a_rank_keeps_its_own_experts_alone() -> None:
    ctx, kept = experts(4, parallel=Parallel(1, 2))
    gate_up, down = torch.randn(4, 12, 4), torch.randn(4, 4, 6)
    load(ctx, {"e.gate_up": gate_up, "e.down": down}, *EXPERTS)
    assert (kept().first, len(kept().down)) == (2, 2)
    for i, weight in enumerate(kept().down):
        assert torch.equal(weight.dense(torch.float32), down[2 + i])
        assert all(f.data.untyped_storage().nbytes() == f.data.nbytes for f in weight.all_fields().values())


def test_experts_may_be_stored_one_by_one() -> None:
    ctx, kept = experts(2)
    tensors = {f"e.{i}.{part}.weight": torch.randn(6, 4) for i in range(2) for part in ("gate", "up")}
    tensors |= {f"e.{i}.down.weight": torch.randn(4, 6) for i in range(2)}
    load(ctx, tensors, *EXPERTS)
    assert torch.equal(kept().up[1].dense(torch.float32), tensors["e.1.up.weight"])


@pytest.mark.parametrize("flat", [True, False])
def test_a_stack_may_be_quantized(flat: bool) -> None:
    """Packed bytes may come as rows of all experts."""
    ctx, kept = experts()
    codes, scales = torch.randint(-9, 9, (3, 12, 4), dtype=torch.int8), torch.rand(3, 6)
    down, down_scales = torch.randint(-9, 9, (3, 4, 6), dtype=torch.int8), torch.rand(3, 2)
    stored = {"e.gate_up_codes": codes, "e.gate_up_scales": scales, "e.down_codes": down, "e.down_scales": down_scales}
    lazies = lazy_tensors(stored)
    if flat:
        lazies = [
            dataclasses.replace(lazy, read=lambda lazy=lazy: lazy.read().flatten(0, 1))
            if "codes" in lazy.name
            else lazy
            for lazy in lazies
        ]  # type: ignore[misc]
    load(ctx, lazies, *EXPERTS)
    for i in range(3):
        dense = codes[i] * scales[i].repeat_interleave(2)[:, None]
        assert torch.equal(kept().gate[i].dense(torch.float32), dense[:6])
        assert torch.equal(kept().up[i].dense(torch.float32), dense[6:])
        wanted = down[i] * down_scales[i].repeat_interleave(2)[:, None]
        assert torch.equal(kept().down[i].dense(torch.float32), wanted)


def test_components_of_another_number_of_experts_are_named() -> None:
    ctx, _ = experts()
    stored = {"e.gate_up_codes": torch.ones(3, 12, 4).char(), "e.gate_up_scales": torch.ones(2, 6)}
    stored["e.down"] = torch.ones(3, 6, 4)
    text = refusal(ctx, stored, *EXPERTS)
    assert "e.gate_up_scales is [2, 6], wanted one of each of 3 experts" in text
    assert "e.down is [3, 6, 4], wanted [3, 4, 6]" in text


def test_a_stack_that_lacks_a_component_names_it() -> None:
    ctx, _ = experts()
    text = refusal(ctx, {"e.gate_up_codes": torch.ones(3, 12, 4).char(), "e.down": torch.ones(3, 4, 6)}, *EXPERTS)
    assert "(missing: e.gate_up_scales)" in text


# Names.


class Tower(nn.Module):
    """What a model says of names: a prefix, an old name, and a tower that it leaves out."""

    def rename(self, name: str) -> str | None:
        if name.startswith("visual."):
            return None
        return name.removeprefix("language_model.").replace("gamma", "weight")


def test_the_model_translates_names() -> None:
    ctx = context()
    layer = ctx.linear("a", 4, 6)
    ctx.norm("n", 4, 1e-6)
    whole = torch.randn(6, 4)
    tensors = {
        "language_model.a.weight": whole,
        "module.language_model.n.gamma": torch.ones(4),
        "visual.a.weight": torch.ones(9, 9),
        "module.visual.b.weight": torch.ones(9, 9),
    }
    load(ctx, tensors, rename=Tower().rename)
    assert torch.equal(matrix(layer), whole)


def test_names_in_errors_are_those_of_the_checkpoint() -> None:
    ctx = context()
    ctx.linear("a", 4, 6)
    tensors = {
        "language_model.a.weight": torch.ones(5, 4),
        "language_model.b.weight": torch.ones(1),
        "a.weight": torch.ones(6, 4),
    }
    text = refusal(ctx, tensors, rename=Tower().rename)
    assert "unexpected: language_model.b.weight, a.weight" in text
    assert "language_model.a.weight is [5, 4], wanted [6, 4]" in text


def test_a_container_s_own_naming_comes_instead_of_the_model_s() -> None:
    class Naming:
        def rename(self, name: str) -> str | None:
            return name.replace("blk", "a")

        def row_order(self, name: str, config: Mapping[str, Any]) -> Any:
            return ORDER.numpy() if name == "a.weight" else None

    ctx = context()
    layer = ctx.linear("a", 4, 6, transposed=True)
    whole = torch.randn(6, 4)
    load(ctx, {"blk.weight": whole}, naming=Naming(), rename=lambda name: None)
    assert torch.equal(matrix(layer), whole[ORDER])


def test_a_tied_head_needs_no_weight_and_takes_one() -> None:
    table, own = torch.randn(8, 4), torch.randn(8, 4)
    for given in (None, own):
        ctx = context()
        embedding = ctx.embedding("emb", 8, 4)
        head = ctx.head("head", 4, 8, tied=embedding)
        load(ctx, {"emb.weight": table} | ({} if given is None else {"head.weight": given}))
        assert torch.equal(matrix(head), table if given is None else given)
        assert embedding.weight is None
