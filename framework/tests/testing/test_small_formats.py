"""Formats as published checkpoints store them, written with the interfaces of plugins: each is checked by the kit and
multiplied by the portable kernels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import LayerKind, QuantFormatCard, ResolutionError
from dovetail.kernel.discovery import import_dotted
from dovetail.nn import Context, ExpertsKernel, ExpertWeights, Ops, StoredWeight, WeightKernel, WeightName
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DenseFormat, DequantizeKernel
from dovetail.nn.float_kernels import CodebookKernel, Float4Kernel, ScaledFloatKernel
from dovetail.nn.loading import WeightReader
from dovetail.nn.packings import E2M1
from dovetail.nn.placing import WeightChoice
from dovetail.testing import WeightSample, check_format, lazy_tensors
from dovetail.testing.packings import NF4

CPU = torch.device("cpu")


def card(target: str, types: Mapping[str, tuple[str, ...]], **claims: Any) -> QuantFormatCard:
    return QuantFormatCard(name="small", target=target, types=dict(types), **claims)


GPTQ = card("kit_gptq:GptqFormat", {"int32": ("affine",)}, methods=("gptq",), config="kit_quant_configs:GptqConfig")
AWQ = card("kit_awq:AwqFormat", {"int32": ("affine",)}, methods=("awq",), config="kit_quant_configs:AwqConfig")
FP8 = card(
    "kit_fp8:Fp8Format",
    {"float8_e4m3fn": ("scaled_float",)},
    methods=("fp8",),
    config="kit_quant_configs:Fp8Config",
)
NF4_CARD = card("kit_four_bits:Nf4Format", {"uint8": ("codebook",)}, methods=("bitsandbytes",))
MXFP4 = card("kit_four_bits:Mxfp4Format", {"uint8": ("float4",)}, methods=("mxfp4",), kinds=("experts",))


def sample(tensors: Mapping[str, Tensor], dense: Tensor, **others: Any) -> WeightSample:
    lazies = lazy_tensors({f"a{suffix}": value for suffix, value in tensors.items()})
    return WeightSample(dict(zip(tensors, lazies, strict=True)), dense, **others)


def pack_integers(codes: Tensor, places: tuple[int, ...], bits: int = 4) -> Tensor:
    """Neighbours along the last dimension, in one int32: ``[..., n]`` → ``[..., n / len(places)]``."""
    whole = torch.zeros(*codes.shape[:-1], codes.shape[-1] // len(places), dtype=torch.int64)
    for place, part in zip(places, codes.long().unflatten(-1, (-1, len(places))).unbind(-1), strict=True):
        whole |= part << (bits * place)
    return torch.where(whole >= 2**31, whole - 2**32, whole).int()


def gptq_sample(
    n: int, k: int, group: int, *, bits: int = 4, order: bool = False, version: str = "gptq", index: bool = True
) -> WeightSample:
    torch.manual_seed(n)
    count, span = -(-k // group), 2**bits
    codes = torch.randint(span, (k, n))
    zeros = torch.randint(1, span, (count, n))
    scales = (0.01 + torch.rand(count, n)).half()
    groups = torch.arange(k) // group
    if order:
        groups = groups[torch.randperm(k)]
    dense = (codes - zeros[groups]).double() * scales[groups].double()
    places = tuple(range(32 // bits))
    tensors = {
        ".qweight": pack_integers(codes.t(), places, bits).t().contiguous(),
        ".qzeros": pack_integers(zeros - int(version == "gptq"), places, bits),
        ".scales": scales,
    }
    if index:
        tensors[".g_idx"] = groups.int()
    config = {"bits": bits, "group_size": group, "desc_act": order, "checkpoint_format": version}
    return sample(tensors, dense.t().float(), config=config)


def awq_sample(n: int, k: int, group: int) -> WeightSample:
    torch.manual_seed(n)
    codes, zeros = torch.randint(16, (k, n)), torch.randint(16, (k // group, n))
    scales = (0.01 + torch.rand(k // group, n)).half()
    dense = (codes - zeros.repeat_interleave(group, 0)).double() * scales.double().repeat_interleave(group, 0)
    # Row 0 comes first, then row 2, 4, 6, 1, 3, 5 and 7.
    places = (0, 4, 1, 5, 2, 6, 3, 7)
    tensors = {".qweight": pack_integers(codes, places), ".qzeros": pack_integers(zeros, places), ".scales": scales}
    return sample(tensors, dense.t().float(), config={"bits": 4, "group_size": group})


def fp8_sample(n: int, k: int, block: tuple[int, int] | None, scales: tuple[int, ...], static: bool) -> WeightSample:
    torch.manual_seed(n)
    values = (10 * torch.randn(n, k)).to(torch.float8_e4m3fn)
    factors = 0.01 + torch.rand(scales)
    rows, columns = block or ((1, k) if factors.numel() == n else (n, k))
    wide = factors.reshape(-(-n // rows), -(-k // columns))
    dense = torch.stack([values[i].float() * wide[i // rows, torch.arange(k) // columns] for i in range(n)])
    tensors = {".weight": values, ".weight_scale_inv" if block else ".weight_scale": factors}
    config = {"weight_block_size": block, "activation_scheme": "static" if static else "dynamic"}
    given = torch.tensor(0.25) if static else None
    return sample(
        tensors if given is None else {**tensors, ".input_scale": given}, dense, config=config, input_scale=given
    )


def nf4_sample(n: int, k: int, group: int) -> WeightSample:
    torch.manual_seed(n)
    codes, scales = torch.randint(16, (n * k,)), torch.rand(n * k // group)
    state = json.dumps({"shape": [n, k], "blocksize": group, "quant_type": "nf4", "dtype": "bfloat16"})
    tensors = {
        ".weight": (codes[::2] << 4 | codes[1::2]).to(torch.uint8)[:, None],
        ".weight.absmax": scales,
        ".weight.quant_map": torch.tensor(NF4),
        ".weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state.encode()), dtype=torch.uint8),
    }
    return sample(tensors, (torch.tensor(NF4)[codes] * scales.repeat_interleave(group)).view(n, k))


def mxfp4(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blocks ``[*shape, 16]``, scales ``[*shape]``, and values ``[*shape[:-1], 32 * shape[-1]]``."""
    torch.manual_seed(sum(shape))
    codes, scales = torch.randint(16, (*shape, 32)), torch.randint(117, 133, shape)
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    dense = table[codes] * 2.0 ** (scales[..., None] - 127)
    return (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8), scales.to(torch.uint8), dense.flatten(-2)


def mxfp4_sample(n: int, k: int) -> WeightSample:
    blocks, scales, dense = mxfp4(n, k // 32)
    return sample({"_blocks": blocks, "_scales": scales}, dense)


SAMPLES: list[tuple[QuantFormatCard, WeightSample, type[WeightKernel]]] = [
    (GPTQ, gptq_sample(40, 64, 16, index=False), AffineKernel),
    (GPTQ, gptq_sample(24, 64, 16, version="gptq_v2"), AffineKernel),
    (GPTQ, gptq_sample(16, 64, 32, bits=8), AffineKernel),
    (GPTQ, gptq_sample(40, 96, 16, order=True), AffineKernel),
    (AWQ, awq_sample(40, 96, 32), AffineKernel),
    (FP8, fp8_sample(200, 300, (128, 128), (2, 3), False), ScaledFloatKernel),
    (FP8, fp8_sample(37, 24, None, (), True), ScaledFloatKernel),
    (FP8, fp8_sample(37, 48, None, (37, 1), False), ScaledFloatKernel),
    (NF4_CARD, nf4_sample(37, 128, 64), CodebookKernel),
    (MXFP4, mxfp4_sample(37, 96), Float4Kernel),
]
NAMES = ["gptq", "gptq v2", "gptq 8", "gptq in order", "awq", "fp8 blocks", "fp8", "fp8 rows", "nf4", "mxfp4"]


@pytest.mark.parametrize("given", SAMPLES, ids=NAMES)
def test_the_kit_passes(given: tuple[QuantFormatCard, WeightSample, type[WeightKernel]]) -> None:
    check_format(given[0], [given[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("given", SAMPLES, ids=NAMES)
def test_the_portable_kernels_agree_with_the_matrix(
    given: tuple[QuantFormatCard, WeightSample, type[WeightKernel]], dtype: torch.dtype
) -> None:
    found, wanted = given[1], given[1].dense
    weight = read(given[0], found)
    x = torch.randn(3, wanted.shape[1], generator=torch.Generator().manual_seed(0)).to(dtype)
    for kernel in (given[2], DequantizeKernel):
        assert kernel.unsupported_reason(weight, "linear") is None
        product = kernel(weight, "linear", CPU, dtype)(x).double()
        exact = x.double() @ wanted.double().T
        assert (product - exact).norm() / exact.norm() < max(4 * torch.finfo(dtype).eps, 1e-5)


def read(card: QuantFormatCard, given: WeightSample) -> StoredWeight:
    config: Any = given.config if card.config is None else import_dotted(card.config).model_validate(given.config)
    name = WeightName("a", card.kinds[0])
    loaded: StoredWeight = import_dotted(card.target)(config).load(name, given.tensors, CPU, torch.float32)
    return loaded


# GPTQ with groups in any order.


def test_half_of_the_columns_of_ordered_groups_is_multiplied_without_the_packing() -> None:
    given = gptq_sample(40, 96, 16, order=True)
    half = read(GPTQ, given).narrow(1, 0, 48).compact()
    reason = AffineKernel.unsupported_reason(half, "linear")
    assert reason == "this weight of type int32 has no packing affine"
    x = torch.randn(2, 48)
    torch.testing.assert_close(
        DequantizeKernel(half, "linear", CPU, torch.float32)(x), x @ given.dense[:, :48].T, rtol=1e-4, atol=1e-4
    )


def test_columns_that_are_whole_groups_of_any_order_have_the_packing() -> None:
    groups = torch.cat([torch.randperm(32) // 16, 2 + torch.randperm(32) // 16]).int()
    given = gptq_sample(8, 64, 16, order=True)
    tensors = {**given.tensors, ".g_idx": lazy_tensors({"a.g_idx": groups})[0]}
    weight = read(GPTQ, WeightSample(tensors, given.dense, given.config))
    part = weight.narrow(1, 32, 64)
    x = torch.randn(2, 32)
    wanted = x @ weight.dense(torch.float32)[:, 32:].T
    torch.testing.assert_close(AffineKernel(part, "linear", CPU, torch.float32)(x), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("same", [True, False])
def test_ordered_weights_are_joined_if_their_orders_are_alike(same: bool) -> None:
    one, other = gptq_sample(16, 64, 16, order=True), gptq_sample(24, 64, 16, order=True)
    if same:
        other = WeightSample({**other.tensors, ".g_idx": one.tensors[".g_idx"]}, other.dense, other.config)
    parts = [read(GPTQ, one), read(GPTQ, other)]
    joined = parts[0].join(parts)
    assert (joined is not None) == same
    if joined is not None:
        assert torch.equal(joined.dense(torch.float32), torch.cat([part.dense(torch.float32) for part in parts]))


def test_parts_of_a_layer_in_one_order_are_multiplied_at_once() -> None:
    """Through the reader: q, k and v have the same inputs, so their groups are in the same order."""
    one, other = gptq_sample(16, 64, 16, order=True), gptq_sample(24, 64, 16, order=True)
    tensors = {f"q{suffix}": lazy.read() for suffix, lazy in one.tensors.items()}
    tensors |= {f"k{suffix}": lazy.read() for suffix, lazy in other.tensors.items()}
    tensors["k.g_idx"] = tensors["q.g_idx"]
    ctx = context()
    layer = ctx.linear({"q": 16, "k": 24}, 64)
    config = import_dotted("kit_quant_configs:GptqConfig").model_validate(one.config)
    choice = WeightChoice("linear", "int32", import_dotted(GPTQ.target), [("affine", AffineKernel)], config)
    reader = WeightReader(ctx, [choice], {})
    reader.load(lazy_tensors(tensors))
    assert reader.used == {"affine": 1}
    found = [
        read(GPTQ, WeightSample({**s.tensors, ".g_idx": one.tensors[".g_idx"]}, s.dense, s.config))
        for s in (one, other)
    ]
    x = torch.randn(3, 64)
    wanted = x @ torch.cat([weight.dense(torch.float32) for weight in found]).T
    torch.testing.assert_close(layer(x), wanted, rtol=1e-4, atol=1e-4)


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


def context(**options: Any) -> Context:
    return Context(device=CPU, dtype=torch.float32, ops=Ops(), attention=None, max_tokens=1, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [True, False], ids=["mxfp4", "full precision"])
def test_a_stack_of_experts_is_read_matrix_by_matrix(packed: bool) -> None:
    """Gate and up alternate in one stack; full-precision checkpoints of the model store it transposed."""
    experts, inner, channels = 3, 64, 96
    ctx = context()
    names = [(f"e.{i}.gate", f"e.{i}.up", f"e.{i}.down") for i in range(experts)]
    layer = ctx.experts(names, channels, inner, 2)
    ctx.stored_together("e.gate_up", [(gate, up) for gate, up, _ in names], alternating=True, transposed=True)
    ctx.stored_together("e.down", [(down,) for _, _, down in names], transposed=True)
    blocks, scales, dense = mxfp4(experts, 2 * inner, channels // 32)
    down_blocks, down_scales, down = mxfp4(experts, channels, inner // 32)
    stored = {"e.gate_up": dense.transpose(1, 2).contiguous(), "e.down": down.transpose(1, 2).contiguous()}
    if packed:
        stored = {"e.gate_up_blocks": blocks, "e.gate_up_scales": scales}
        stored |= {"e.down_blocks": down_blocks, "e.down_scales": down_scales}
    kernels: list[tuple[str, Any]] = [("keep", Keep)]
    kinds: tuple[LayerKind, ...] = ("experts",)
    choices = [WeightChoice(kind, "float32", DenseFormat, kernels) for kind in kinds]
    choices += [WeightChoice(kind, "uint8", import_dotted(MXFP4.target), kernels) for kind in kinds]
    reads: dict[str, int] = {}
    WeightReader(ctx, choices, {}).load(counted(stored, reads))
    assert isinstance(layer.kernel, Keep)
    found = layer.kernel.weights
    for i in range(experts):
        assert torch.equal(found.gate[i].dense(torch.float32), dense[i, ::2])
        assert torch.equal(found.up[i].dense(torch.float32), dense[i, 1::2])
        assert torch.equal(found.down[i].dense(torch.float32), down[i])
    assert reads == dict.fromkeys(stored, 1)


def counted(tensors: Mapping[str, Tensor], reads: dict[str, int]) -> list[Any]:
    """Lazy tensors whose reads are counted by name."""

    def count(lazy: Any) -> Any:
        def read() -> Tensor:
            reads[lazy.name] = reads.get(lazy.name, 0) + 1
            return lazy.read()

        return type(lazy)(lazy.name, lazy.shape, lazy.type, read)

    return [count(lazy) for lazy in lazy_tensors(tensors)]


# A layer that a format's configuration leaves alone.


@pytest.mark.parametrize("ignored", [True, False])
def test_layers_that_a_configuration_ignores_are_read_by_another_format(ignored: bool) -> None:
    given = fp8_sample(37, 24, None, (), False)
    ctx = context()
    first, second = ctx.linear("a", 24, 37), ctx.linear("b", 24, 5)
    plain = torch.randn(5, 24)
    config = import_dotted("kit_quant_configs:Fp8Config")(ignored_layers=("b",) if ignored else ())
    choices = [
        WeightChoice("linear", "float8_e4m3fn", import_dotted(FP8.target), [("s", ScaledFloatKernel)], config),
        WeightChoice("linear", "float32", DenseFormat, [("d", DequantizeKernel)]),
    ]
    reader = WeightReader(ctx, choices, {})
    reader.load([*given.tensors.values(), *lazy_tensors({"b.weight": plain})])
    x = torch.randn(2, 24)
    torch.testing.assert_close(first(x), x @ given.dense.T, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(second(x), x @ plain.T)
    assert reader.used == {"s": 1, "d": 1}


def test_a_quantized_weight_of_an_ignored_layer_has_no_format() -> None:
    given = fp8_sample(37, 24, None, (), False)
    ctx = context()
    ctx.linear("a", 24, 37)
    config = import_dotted("kit_quant_configs:Fp8Config")(ignored_layers=("a",))
    choice = WeightChoice("linear", "float8_e4m3fn", import_dotted(FP8.target), [("s", ScaledFloatKernel)], config)
    with pytest.raises(ResolutionError, match=r"layer made of a\.weight \(float8_e4m3fn\)"):
        WeightReader(ctx, [choice], {}).load([given.tensors[".weight"]])
