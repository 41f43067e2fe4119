"""check_format and check_kernel: what passes, and what each wrong one is told."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import SkipTest

import pytest
import torch
from kit_quant import RowFormat

from dovetail.api import QuantFormatCard, QuantKernelCard
from dovetail.builtin import dovetail_register_quantization
from dovetail.nn import AffineWeight, CodebookWeight, Context, Float4Weight, Ops, ScaledFloatWeight, TwoLevelScales
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing import (
    WeightSample,
    check_format,
    check_kernel,
    lazy_tensors,
    sample_weights,
    unpack_affine,
)
from dovetail.testing.packings import unpack_codebook

BUILTIN = {f"{card.kind} {card.name}": card for card in dovetail_register_quantization()}


def row_sample(rows: int = 13, columns: int = 24, type_: str = "rows8", **others: torch.Tensor) -> WeightSample:
    torch.manual_seed(rows)
    codes = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
    scales = torch.rand(rows)
    tensors = {".weight": codes, ".scales": scales, **{f".{name}": value for name, value in others.items()}}
    lazies = lazy_tensors({f"a{suffix}": value for suffix, value in tensors.items()})
    object.__setattr__(lazies[0], "type", type_)
    return WeightSample(
        dict(zip(tensors, lazies, strict=True)), codes * scales[:, None], input_scale=others.get("input_scale")
    )


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
    check_format(format_card(), [row_sample(input_scale=torch.tensor(0.5)), row_sample(5, input_scale=torch.rand(24))])
    check_format(format_card(kinds=("head", "embedding")), [row_sample()])


def test_a_format_s_configuration_is_an_object_of_its_class() -> None:
    card = format_card("ConfiguredFormat", config="kit_quant:RowConfig", methods=("rows",))
    given = row_sample()
    check_format(card, [WeightSample(given.tensors, given.dense, {"group": 1})])
    with pytest.raises(AssertionError, match=r"components\(\) leaves out model\.layers\.0\.mlp\.down_proj"):
        check_format(
            card, [WeightSample(given.tensors, given.dense, {"group": 1, "ignore": ["model.layers.0.mlp.down_proj"]})]
        )


def test_the_dense_format_passes() -> None:
    card = BUILTIN["format dense"]
    assert isinstance(card, QuantFormatCard)
    torch.manual_seed(0)
    stored = {type_: torch.randn(13, 24).to(getattr(torch, type_)) for type_ in card.types}
    samples = [WeightSample({".weight": lazy_tensors({"a.weight": x})[0]}, x.float()) for x in stored.values()]
    check_format(card, samples)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (format_card("Unpacked"), "as affine: pack() gives None"),
        (format_card("WrongPack"), "as affine: differs from the reference by"),
        (format_card("Shifted"), "is not that slice of the whole"),
        (format_card("Swapped"), "join() does not give its parts back"),
        (format_card("Lonely"), "join() declines the parts of one weight"),
        (format_card("Credulous"), "with a row less than announced is not refused"),
        (
            format_card("AnyScales"),
            "a .scales of type int32 is not refused (see the arguments of dovetail.nn.read_tens",
        ),
        (format_card("BrokenScales"), "a .scales in which a number is nan is not refused"),
        (format_card("Unnamed"), "components() does not name .scales"),
        (format_card("Misordered"), "the first required component is .scales, whose type is float32"),
        (format_card("Mandatory"), "without .scales, which components() calls optional: KeyError: '.scales'"),
        (format_card("Ignorant"), "components() leaves out"),
        (format_card("Forgotten"), "fields() does not name scales"),
        (format_card("Bare"), "the format rows answered load() of a.weight, a.scales with Tensor of torch.int8"),
        (format_card("Lengthy"), "the format rows answered shape() of a.weight, a.scales with list, wanted a tuple of"),
        (
            format_card("Suffixed"),
            "the format rows answered components() of model.layers.0.mlp.down_proj with tuple, wanted Components or None",
        ),
        (format_card("Hidden"), "cached is no field of the dataclass"),
        (format_card("WideUnit"), "scales is [13], but 13 rows with Axis(dim=0, unit=2, entries=1) make 7"),
        (format_card("NoAxis"), "cut as fields() says"),
        (format_card("WrongTensor"), "fields() names scales, which is another attribute's tensor"),
        (format_card(types={"rows8": ("affine",), "rows4": ()}), "claims the types rows4, for which no sample"),
        (format_card(types={"rows8": ("affine", "novel")}), "as novel: pack() gives None"),
    ],
    ids=lambda value: value.target.removeprefix("kit_quant:") if isinstance(value, QuantFormatCard) else "",
)
def test_what_is_wrong_with_a_format_is_said(wrong: QuantFormatCard, told: str) -> None:
    with pytest.raises(AssertionError, match="format 'rows'") as failure:
        check_format(wrong, [row_sample()])
    assert told in str(failure.value)


def test_fields_of_the_right_length_on_the_wrong_side_are_found_by_a_cut() -> None:
    given = row_sample(24, 24)
    dense = given.tensors[".weight"].read() * given.tensors[".scales"].read()
    with pytest.raises(AssertionError, match=r"rows 0 to \d+, cut as fields\(\) says: RuntimeError: The size"):
        check_format(format_card("WrongSide", types={"rows8": ()}), [WeightSample(given.tensors, dense)])


def test_a_scale_of_activations_that_is_lost_is_missed() -> None:
    with pytest.raises(AssertionError, match="it has no input_scale, but the sample has one"):
        check_format(format_card("Unscaled"), [row_sample(input_scale=torch.tensor(0.5))])


def test_a_sample_may_have_no_packing() -> None:
    sample = row_sample()
    check_format(format_card("Unpacked"), [replace(sample, packings=())])
    with pytest.raises(AssertionError, match="as affine: pack\\(\\) gives one, but the sample says"):
        check_format(format_card(), [replace(sample, packings=())])
    with pytest.raises(AssertionError, match="the packings novel, which the card does not list"):
        check_format(format_card(), [replace(sample, packings=("novel",))])


def test_a_wrong_dequantization_is_said() -> None:
    sample = row_sample()
    wrong = WeightSample(sample.tensors, sample.dense * 1.001)
    with pytest.raises(AssertionError, match=r"its dequantization: differs from the reference by 0\.001"):
        check_format(format_card(), [wrong])


def test_a_packing_of_one_s_own_needs_its_reference() -> None:
    card = format_card("WrongPack", types={"rows8": ("novel",)})
    with pytest.raises(AssertionError, match="the kit cannot read that packing"):
        check_format(card, [row_sample()])


MATRIX_KERNELS = [
    card for card in BUILTIN.values() if isinstance(card, QuantKernelCard) and "experts" not in card.kinds
]


@pytest.mark.parametrize("card", MATRIX_KERNELS, ids=lambda card: card.name)
def test_the_framework_s_kernels_pass(card: QuantKernelCard) -> None:
    check_kernel(card)


@pytest.mark.parametrize("packing", ["affine", "scaled_float", "codebook", "float4"])
def test_the_kit_s_own_weights_can_be_cut(packing: str) -> None:
    """They are checked as a format's are, so that tests of kernels may cut and join them."""
    from dovetail.testing import formats

    for weight in sample_weights(packing):
        formats._check_fields(weight, packing)
        formats._check_rows(weight, packing)
        formats._check_moves(weight, packing)
        for dim in (0, 1):
            formats._check_order(weight, dim, packing)
            formats._check_cuts(weight, dim, packing)


@pytest.mark.parametrize("order", [(".weight", ".scales"), (".scales", ".weight")])
def test_a_weight_in_parts_is_read_whatever_their_order(order: Sequence[str]) -> None:
    """The scales' own type has a format too, which must not be taken for the weight's."""
    sample = row_sample()
    ctx = Context(device=torch.device("cpu"), dtype=torch.float32, ops=Ops(), attention=None, max_tokens=1)  # type: ignore[arg-type]
    layer = ctx.linear("a", 24, 13)
    choices = [
        WeightChoice("linear", "float32", DenseFormat, [("dense", DenseKernel)]),
        WeightChoice("linear", "rows8", RowFormat, [("dequantize", DequantizeKernel)]),
    ]
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
        (
            kernel_card("Wide"),
            "claims linear layers in bfloat16 (here affine [64, 128] on cpu): the kernel product "
            "answered a product with Tensor of torch.float32 [1, 64], wanted a tensor of torch.bfloat16 [1, 64]",
        ),
        (
            kernel_card("Mute"),
            "the kernel product answered unsupported_reason() with bool False, wanted a text or None",
        ),
        (kernel_card("Absent"), "the kernel product answered a product with None, wanted a tensor of torch.float32"),
        (kernel_card("RowFormat"), "kit_quant:RowFormat is no subclass of dovetail.nn.WeightKernel"),
        (kernel_card("Contiguous"), "not contiguous"),
        (
            kernel_card("Disordered"),
            "claims linear layers in float32 (here affine [64, 128] on cpu): x [1, 128]: differs",
        ),
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


WHOLE = {"codes": torch.full((2, 8), 15, dtype=torch.uint8), "scales": torch.ones(2, 2), "mins": None, "bits": 4}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"group": 5}, "a group of 5 columns does not divide 8 columns"),
        ({"group": 0}, "a group of 0 columns"),
        ({"scales": torch.ones(2, 3)}, r"affine scales: the shape is \[2, 3\], wanted \[2, 2\]"),
        ({"mins": torch.ones(2, 2).int()}, "affine mins: the dtype is int32, wanted float16 or float32"),
        ({"codes": torch.ones(2, 8)}, "affine codes: the dtype is float32, wanted uint8 or int8"),
        ({"codes": torch.ones(8).char()}, "wanted a matrix"),
        ({"bits": 9}, "9 bits, wanted 1 to 8"),
        ({"order": torch.arange(8).int()}, "an affine order: the dtype is int32, wanted int64"),
        ({"order": torch.arange(7)}, r"an affine order: the shape is \[7\]"),
    ],
)
def test_a_malformed_affine_packing_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        AffineWeight(**{"group": 4, **WHOLE, **changes})


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"bits": 3}, "do not fit in 3 bits"), ({"order": torch.zeros(8).long()}, "does not name each of 8 columns")],
)
def test_wrong_codes_of_a_packing_fail_in_the_kit(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        unpack_affine(AffineWeight(**{"group": 4, **WHOLE, **changes}))


def test_malformed_packings_of_floats_are_refused() -> None:
    values, codes = torch.ones(4, 8).to(torch.float8_e4m3fn), torch.full((4, 8), 15, dtype=torch.uint8)
    one, wrong = torch.ones(1, 1), torch.ones(1).half()
    for make, told in (
        (lambda: ScaledFloatWeight(values.half(), one, (4, 8)), "8-bit"),
        (lambda: ScaledFloatWeight(values, one.half(), (4, 8)), "wanted float32"),
        (lambda: ScaledFloatWeight(values, one, (3, 8)), r"wanted \[2, 1\]"),
        (lambda: ScaledFloatWeight(values, one, (0, 8)), "at least one row"),
        (lambda: CodebookWeight(codes, torch.ones(15), torch.ones(4, 1), 4, 8), r"a codebook: the shape is \[15\]"),
        (lambda: CodebookWeight(codes, torch.ones(16), torch.ones(4, 3), 4, 4), r"codebook scales: .* wanted \[4, 2\]"),
        (lambda: Float4Weight(codes, torch.ones(4, 2), 5), "does not divide 16 columns"),
        (lambda: Float4Weight(codes, torch.ones(4, 2), 8, torch.ones(3)), r"\[3\], wanted one number or \[4\]"),
        (lambda: Float4Weight(codes, torch.ones(4, 2), 8, None, wrong), "activations: the dtype is float16"),
        (lambda: TwoLevelScales(torch.ones(4, 3), codes), "S a divisor of 8"),
    ):
        with pytest.raises(ValueError, match=told):
            make()
    with pytest.raises(AssertionError, match="fit in 3 bits"):
        unpack_codebook(CodebookWeight(codes, torch.ones(8), torch.ones(4, 1), 3, 8))
