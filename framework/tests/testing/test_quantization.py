"""check_format and check_kernel: what passes, and what each wrong one is told."""

from typing import Any
from unittest import SkipTest

import pytest
import torch
from kit_quant import RowFormat

from dovetail.api import QuantFormatCard, QuantKernelCard
from dovetail.builtin import dovetail_register_quantization
from dovetail.nn import Context, Ops
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.loading import KernelChoice, WeightReader
from dovetail.nn.weights import AffineWeight
from dovetail.testing import (
    WeightSample,
    check_format,
    check_kernel,
    lazy_tensors,
    sample_weights,
    unpack_affine,
)

BUILTIN = {f"{card.kind} {card.name}": card for card in dovetail_register_quantization()}


def row_sample(rows: int = 13, columns: int = 24) -> WeightSample:
    torch.manual_seed(rows)
    codes = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
    scales = torch.rand(rows)
    weight, scale = lazy_tensors({"a.weight": codes, "a.scales": scales})
    object.__setattr__(weight, "type", "rows8")
    return WeightSample({"weight": weight, "scales": scale}, codes * scales[:, None])


def format_card(target: str = "RowFormat", **claims: Any) -> QuantFormatCard:
    return QuantFormatCard(name="rows", **{"target": f"kit_quant:{target}", "types": {"rows8": ("affine",)}, **claims})


def kernel_card(target: str = "Product", **claims: Any) -> QuantKernelCard:
    return QuantKernelCard(
        name="product",
        **{
            "target": f"kit_quant:{target}",
            "packings": ("affine",),
            "devices": ("cpu",),
            "dtypes": ("float32", "bfloat16"),
            "kinds": ("linear",),
            **claims,
        },
    )


def test_a_right_format_passes() -> None:
    check_format(format_card(), [row_sample(), row_sample(1, 7)])


def test_the_dense_format_passes() -> None:
    card = BUILTIN["format dense"]
    assert isinstance(card, QuantFormatCard)
    torch.manual_seed(0)
    stored = {type_: torch.randn(13, 24).to(getattr(torch, type_)) for type_ in card.types}
    samples = [WeightSample({"weight": lazy_tensors({"a.weight": x})[0]}, x.float()) for x in stored.values()]
    check_format(card, samples)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (format_card("Unordered"), "reorder() is not in the order asked for"),
        (format_card("Unpacked"), "as affine: pack() gives None"),
        (format_card("WrongPack"), "as affine: differs from the reference by"),
        (format_card("Shifted"), "is not that slice of the whole"),
        (format_card("Swapped"), "joining: the rows are not those of the parts in order"),
        (format_card("Credulous"), "with a row less than announced is not refused"),
        (format_card(types={"rows8": ("affine",), "rows4": ()}), "claims the types rows4, for which no sample"),
        (format_card(types={"rows8": ("affine", "novel")}), "as novel: pack() gives None"),
    ],
)
def test_what_is_wrong_with_a_format_is_said(wrong: QuantFormatCard, told: str) -> None:
    with pytest.raises(AssertionError, match="format 'rows'") as failure:
        check_format(wrong, [row_sample()])
    assert told in str(failure.value)


def test_a_wrong_dequantization_is_said() -> None:
    sample = row_sample()
    wrong = WeightSample(sample.tensors, sample.dense * 1.001)
    with pytest.raises(AssertionError, match=r"its dequantization: differs from the reference by 0\.001"):
        check_format(format_card(), [wrong])


def test_a_packing_of_one_s_own_needs_its_reference() -> None:
    card = format_card("WrongPack", types={"rows8": ("novel",)})
    with pytest.raises(AssertionError, match="the kit cannot read that packing"):
        check_format(card, [row_sample()])


@pytest.mark.parametrize("name", [name for name in BUILTIN if name.startswith("kernel")])
def test_the_framework_s_kernels_pass(name: str) -> None:
    card = BUILTIN[name]
    assert isinstance(card, QuantKernelCard)
    check_kernel(card)


@pytest.mark.parametrize("order", [("weight", "scales"), ("scales", "weight")])
def test_a_weight_in_parts_is_read_whatever_their_order(order: tuple[str, str]) -> None:
    """The scales' own type has a format too, which must not be taken for the weight's."""
    sample = row_sample()
    ctx = Context(device=torch.device("cpu"), dtype=torch.float32, ops=Ops(), attention=None, max_tokens=1)  # type: ignore[arg-type]
    layer = ctx.linear("a", 24, 13)
    choices = {
        ("linear", "rows8"): KernelChoice(RowFormat, [("dequantize", DequantizeKernel)]),
        ("linear", "float32"): KernelChoice(DenseFormat, [("dense", DenseKernel)]),
    }
    WeightReader(ctx, choices, {}).load([sample.tensors[component] for component in order])
    x = torch.randn(3, 24)
    torch.testing.assert_close(layer(x), x @ sample.dense.T)


def test_a_right_kernel_passes() -> None:
    check_kernel(kernel_card())
    check_kernel(kernel_card(packings=("*",), kinds=("linear", "head"), devices=("*",)))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            kernel_card("OnePercent"),
            "claims linear layers in float32 (here affine [64, 128] on cpu): x [1, 128]: differs",
        ),
        (kernel_card("OnePercent", kinds=("embedding",), dtypes=("float32",)), "claims embedding layers"),
        (kernel_card("InPlace"), "x is changed"),
        (kernel_card("Wide"), "claims linear layers in bfloat16 (here affine [64, 128] on cpu): the result is float32"),
        (kernel_card("Contiguous"), "not contiguous"),
        (kernel_card("Picky"), "but declines all: not today"),
        (kernel_card(packings=("affine", "novel")), "claims novel, for which no weight is given"),
    ],
)
def test_what_is_wrong_with_a_kernel_is_said(wrong: QuantKernelCard, told: str) -> None:
    with pytest.raises(AssertionError, match="kernel 'product'") as failure:
        check_kernel(wrong)
    assert told in str(failure.value)


def test_a_kernel_s_probe_skips_with_its_reason() -> None:
    with pytest.raises(SkipTest, match="this machine is the wrong one"):
        check_kernel(kernel_card(probe="kit_attention:no"))


def test_samples_in_two_levels_are_near_their_flat_likes() -> None:
    flat, split = sample_weights("affine")[2], sample_weights("affine")[-1]
    torch.testing.assert_close(split.dense(torch.float32), flat.dense(torch.float32), rtol=0, atol=0.05)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bits": 3}, "do not fit in 3 bits"),
        ({"group": 5}, "does not divide"),
        ({"scales": torch.ones(2, 3)}, "affine scales are"),
        ({"codes": torch.ones(2, 8)}, "wanted uint8 or int8"),
    ],
)
def test_a_malformed_affine_packing_is_refused(changes: dict[str, Any], told: str) -> None:
    whole = {"codes": torch.full((2, 8), 15, dtype=torch.uint8), "scales": torch.ones(2, 2), "mins": None, "bits": 4}
    with pytest.raises(AssertionError, match=told):
        unpack_affine(AffineWeight(**{"group": 4, **whole, **changes}))
