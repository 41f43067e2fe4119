"""What is missing from a checkpoint, too much in it, or not as it should be."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import CheckpointError, LazyTensor, ResolutionError
from dovetail.nn import (
    Components,
    StoredWeight,
    WeightName,
    read_tensor,
)
from dovetail.nn.placing import WeightChoice
from dovetail.testing import lazy_tensors

from .loading_parts import (
    KERNELS,
    SCALED,
    ScaledFormat,
    context,
    load,
    matrix,
    refusal,
    scaled,
)


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


def test_a_vector_may_be_stored_as_a_row_or_a_column() -> None:
    """As the correction biases of routers are."""
    for shape in ((6,), (1, 6), (6, 1)):
        ctx, found = context(), []
        ctx.vector("gate.e_score_correction_bias", (6,), found.append, dtype=torch.float32)
        load(ctx, {"gate.e_score_correction_bias": torch.arange(6.0).view(shape)})
        assert [value.tolist() for value in found] == [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]]
    for shape in ((2, 3), (1, 5), (6, 6)):
        ctx = context()
        ctx.vector("gate.e_score_correction_bias", (6,), lambda value: None)
        text = refusal(ctx, {"gate.e_score_correction_bias": torch.ones(shape)})
        assert f"gate.e_score_correction_bias is {list(shape)}, wanted [6]" in text


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
