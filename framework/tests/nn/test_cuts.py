"""Models that several ranks share give the tokens of the whole one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dovetail.api import LayerKind, LazyTensor, alibi_slopes
from dovetail.api.errors import CheckpointError, UsageError
from dovetail.nn import (
    MLP,
    Attention,
    AttentionSpec,
    Axis,
    CausalLM,
    ColumnCut,
    Components,
    Context,
    Field,
    GatedMLP,
    Head,
    Linear,
    Ops,
    Parallel,
    QuantFormat,
    Rope,
    RowCut,
    SelfAttention,
    Step,
    StoredWeight,
    WeightName,
)
from dovetail.nn.dense import DenseFormat, DenseKernel, DequantizeKernel
from dovetail.nn.experts import EveryExpert, GroupedExperts
from dovetail.nn.layers import CutRMSNorm
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing import ReferenceAttention, lazy_tensors, run_ranks, run_tokens

CPU = torch.device("cpu")
PROMPT = [3, 1, 4, 1, 5]
NEW = 20
GROUP = 8
KINDS: tuple[LayerKind, ...] = ("linear", "head", "embedding")


# A quantized format


@dataclass(frozen=True, eq=False)
class GroupedWeight(StoredWeight):
    """8-bit integers with a scale for each 8 columns."""

    codes: Tensor
    scales: Tensor

    def fields(self) -> dict[str, Field]:
        return {"codes": Field(self.codes, Axis(0), Axis(1)), "scales": Field(self.scales, Axis(0), Axis(1, GROUP))}

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return (self.codes.float().unflatten(1, (-1, GROUP)) * self.scales[..., None]).flatten(1).to(dtype)


class GroupedFormat(QuantFormat):
    def components(self, weight: WeightName) -> Components:
        return Components((".codes", ".scales"))

    def load(
        self, weight: WeightName, tensors: Mapping[str, LazyTensor], device: torch.device, dtype: torch.dtype
    ) -> GroupedWeight:
        codes, scales = tensors[".codes"].read(), tensors[".scales"].read()
        return GroupedWeight((codes.shape[0], codes.shape[1]), "int8", codes.to(device), scales.to(device))


def quantized(tensors: Mapping[str, Tensor], skip: Sequence[str] = ()) -> dict[str, Tensor]:
    """The matrices of a checkpoint as the format stores them, but for those whose names contain one of ``skip``."""
    out = {}
    for name, value in tensors.items():
        if value.ndim < 2 or any(part in name for part in skip):
            out[name] = value
            continue
        groups = value.unflatten(1, (-1, GROUP))
        scales = groups.abs().amax(-1) / 127
        owner = name.removesuffix(".weight")
        out[f"{owner}.codes"] = (groups / scales[..., None]).round().to(torch.int8).flatten(1)
        out[f"{owner}.scales"] = scales
    return out


def choices() -> list[WeightChoice]:
    kernels: list[tuple[str, Any, type[QuantFormat], type]] = [
        ("int8", "dequantize", GroupedFormat, DequantizeKernel),
        ("float32", "dense", DenseFormat, DenseKernel),
    ]
    found = [WeightChoice(kind, type_, fmt, [(name, made)]) for type_, name, fmt, made in kernels for kind in KINDS]
    grouped = [("grouped", GroupedExperts)]
    return [*found, *(WeightChoice("experts", type_, fmt, grouped) for type_, _, fmt, _ in kernels)]


# A model


@dataclass(frozen=True)
class Shape:
    channels: int = 24
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 8
    inner: int = 40
    vocabulary: int = 31
    layers: int = 2
    experts: int = 0
    tied: bool = False
    fused: bool = False
    together: bool = False
    gated: bool = True
    biases: bool = False
    softcap: float | None = None
    norm_by: Literal["head", "whole"] | None = None
    row_order: bool = False


class Mixture(nn.Module):
    def __init__(self, s: Shape, ctx: Context, name: str) -> None:
        super().__init__()
        self.router = ctx.linear(f"{name}.router", s.channels, s.experts)
        names = [(f"{name}.{e}.gate", f"{name}.{e}.up", f"{name}.{e}.down") for e in range(s.experts)]
        self.experts = ctx.experts(names, s.channels, s.inner, 2)
        self.route = ctx.ops.route

    def forward(self, x: Tensor) -> Tensor:
        ids, weights = self.route(self.router(x), 2)
        return self.experts(x, ids, weights)


class Block(nn.Module):
    def __init__(self, s: Shape, ctx: Context, name: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ctx.norm(f"{name}.norm{i}", s.channels, 1e-6) for i in range(2))
        self.attention = SelfAttention(
            ctx,
            f"{name}.attention",
            channels=s.channels,
            num_heads=s.heads,
            num_kv_heads=s.kv_heads,
            head_dim=s.head_dim,
            bias=s.biases,
            out_bias=s.biases,
            names=("qkv", "out") if s.fused else ("q", "k", "v", "out"),
            qk_norm=partial(ctx.norm, eps=1e-6) if s.norm_by else None,
            norm_by=s.norm_by or "head",
        )
        if s.together:
            ctx.stored_together(f"{name}.attention.all", [f"{name}.attention.{part}" for part in "qkv"])
        self.mlp: nn.Module
        if s.experts:
            self.mlp = Mixture(s, ctx, f"{name}.mlp")
        elif s.gated:
            names = ("both", "down") if s.fused else ("gate", "up", "down")
            self.mlp = GatedMLP(ctx, f"{name}.mlp", s.channels, s.inner, bias=s.biases, names=names)
            if s.together:
                parts = [f"{name}.mlp.{part}" for part in ("gate", "up")]
                ctx.stored_together(f"{name}.mlp.both", parts, alternating=True)
        else:
            self.mlp = MLP(ctx, f"{name}.mlp", s.channels, s.inner, activation="gelu", bias=s.biases)

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        x = x + self.attention(self.norms[0](x), rope, step)
        return x + self.mlp(self.norms[1](x))


class Decoder(CausalLM):
    def __init__(self, s: Shape, ctx: Context) -> None:
        super().__init__()
        self.half = s.head_dim // 2
        self.embedding = ctx.embedding("embedding", s.vocabulary, s.channels)
        self.positions = ctx.embedding("positions", 64, s.channels)
        self.types = ctx.embedding("types", 1, s.channels)  # fewer rows than ranks
        self.blocks = nn.ModuleList(Block(s, ctx, f"blocks.{i}") for i in range(s.layers))
        self.mixed = None
        if s.row_order:
            order = torch.randperm(s.channels, generator=torch.Generator().manual_seed(1))
            self.mixed = ctx.linear("mixed", s.channels, s.channels, bias=True, cut="rows", row_order=order)
            self.back = ctx.linear("back", s.channels, s.channels, cut="columns")
        self.norm = ctx.norm("norm", s.channels, 1e-6)
        tied = self.embedding if s.tied else None
        self.head = ctx.head("head", s.channels, s.vocabulary, tied=tied, bias=s.biases, softcap=s.softcap)

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens) + self.positions(step.positions) + self.types(torch.zeros_like(step.tokens))
        angles = step.positions[:, None] * 0.5 ** torch.arange(self.half)
        for block in self.blocks:
            x = block(x, Rope(angles.cos(), angles.sin()), step)
        if self.mixed is not None:
            x = x + self.back(self.mixed(x))
        return self.norm(x)


def make_context(parallel: Parallel | None = None, **options: Any) -> Context:
    attention = ReferenceAttention(device=CPU, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    return Context(
        device=CPU, dtype=torch.float32, ops=Ops(), attention=attention, max_tokens=64, parallel=parallel, **options
    )


def load(ctx: Context, tensors: Mapping[str, Tensor]) -> None:
    WeightReader(ctx, choices(), {}).load(lazy_tensors(tensors))


def build(
    shape: Shape, tensors: Mapping[str, Tensor], parallel: Parallel | None = None, **options: Any
) -> tuple[Decoder, Context]:
    ctx = make_context(parallel, **options)
    model = Decoder(shape, ctx)
    load(ctx, tensors)
    return model, ctx


def checkpoint(shape: Shape) -> dict[str, Tensor]:
    ctx = make_context()
    Decoder(shape, ctx)
    generator = torch.Generator().manual_seed(0)
    shapes = WeightReader(ctx, choices(), {}).expected()
    tensors = {name: torch.randn(*size, generator=generator) for name, size in shapes.items()}
    # Positions weigh so much that tokens differ.
    scaled = {n: t * t.shape[-1] ** -0.5 for n, t in tensors.items() if t.ndim > 1 and n != "positions.weight"}
    tensors |= scaled | {n: 0.1 * t + n.endswith(".weight") for n, t in tensors.items() if t.ndim == 1}
    if shape.together:
        for i in range(shape.layers):
            parts = [tensors.pop(f"blocks.{i}.attention.{part}.weight") for part in "qkv"]
            tensors[f"blocks.{i}.attention.all.weight"] = torch.cat(parts)
            pair = [tensors.pop(f"blocks.{i}.mlp.{part}.weight") for part in ("gate", "up")]
            tensors[f"blocks.{i}.mlp.both.weight"] = torch.stack(pair, 1).flatten(0, 1)
    return tensors


def generate(model: Decoder, ctx: Context) -> tuple[list[int], Tensor]:
    """Greedy tokens after the prompt, and the logits that they were chosen from."""
    tokens = list(PROMPT)
    for _ in range(NEW):
        tokens.append(int(run_tokens(model, ctx, tokens)[-1].argmax()))
    return tokens, run_tokens(model, ctx, tokens[:-1])


PLAIN = Shape()
MIXTURE = Shape(experts=5, layers=1)
SHAPES: dict[str, tuple[Shape, tuple[int, ...]]] = {
    "two kv heads": (PLAIN, (2,)),
    "three kv heads": (Shape(kv_heads=3), (3,)),
    "six kv heads": (Shape(kv_heads=6), (2, 3)),
    "one kv head": (Shape(kv_heads=1), (2, 3)),
    "kv heads on two ranks each": (Shape(heads=8), (4,)),
    "odd channels": (Shape(inner=37, vocabulary=29), (2,)),
    "biases": (Shape(biases=True), (2,)),
    "plain MLP": (Shape(biases=True, gated=False), (2,)),
    "fused": (Shape(fused=True, biases=True), (2,)),
    "fused, one kv head": (Shape(fused=True, kv_heads=1), (3,)),
    "stored together": (Shape(together=True), (2,)),
    "norm by head": (Shape(norm_by="head"), (2,)),
    "norm over all heads": (Shape(norm_by="whole"), (2,)),
    "norm over all heads, one kv head": (Shape(norm_by="whole", kv_heads=1), (3,)),
    "tied": (Shape(tied=True, softcap=3.0), (2,)),
    "row order": (Shape(row_order=True), (2,)),
    "experts": (MIXTURE, (2,)),
    "experts, one kv head": (replace(MIXTURE, kv_heads=1), (3,)),
}
CASES = [(name, size, False) for name, (_, sizes) in SHAPES.items() for size in sizes]
QUANTIZED = ("two kv heads", "three kv heads", "fused", "stored together", "tied", "experts", "experts, one kv head")
CASES += [(name, size, True) for name, size, _ in CASES if name in QUANTIZED]


@pytest.mark.parametrize(("name", "size", "grouped"), CASES)
def test_ranks_give_the_tokens_of_the_whole(name: str, size: int, grouped: bool) -> None:
    shape = SHAPES[name][0]
    tensors = quantized(checkpoint(shape), skip=("router",)) if grouped else checkpoint(shape)
    tokens, logits = generate(*build(shape, tensors))
    assert len(set(tokens[len(PROMPT) :])) > 3, "a model that repeats itself shows little"

    def work(parallel: Parallel) -> Tensor:
        model, ctx = build(shape, tensors, parallel)
        # The prompt, two single tokens and the rest. As logits are those of the whole, these tokens would be chosen.
        return run_tokens(model, ctx, tokens[:-1], [len(PROMPT), 1, 1, NEW - 3])

    ranks = run_ranks(size, work)
    for found in ranks:
        assert found[len(PROMPT) - 1 :].argmax(-1).tolist() == tokens[len(PROMPT) :]
        torch.testing.assert_close(found, logits, rtol=1e-4, atol=2e-5)
        assert torch.equal(found, ranks[0]), "all ranks choose the same token"


# Parts


@pytest.mark.parametrize(
    ("total", "size", "sizes"),
    [
        (11008, 2, [5632, 5376]),  # Llama 7B: multiples of 256
        (14336, 4, [3584] * 4),
        (256, 2, [128, 128]),
        (40, 3, [16, 16, 8]),
        (31, 2, [16, 15]),
        (3, 3, [1, 1, 1]),
    ],
)
def test_channels_are_cut_in_multiples_of_groups(total: int, size: int, sizes: list[int]) -> None:
    ranges = [Parallel(rank, size).channels(total) for rank in range(size)]
    assert [stop - start for start, stop in ranges] == sizes
    assert [0, *(stop for _, stop in ranges)] == [*(start for start, _ in ranges), total]
    assert Parallel(0, size).sizes(total, Parallel(0, size).channel_unit(total)) == sizes


def test_fewer_channels_than_ranks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 channels cannot be divided among 3 devices; use at most 2"):
        Parallel(0, 3).channels(2)


@pytest.mark.parametrize(
    ("heads", "kv", "size", "told"),
    [
        (6, 2, 3, "use 1, 2, 6 of"),
        (6, 3, 2, "use 1, 3, 6 of"),
        (6, 6, 4, "use 1, 2, 3, 6 of"),
        (7, 1, 2, "use 1, 7 of"),
    ],
)
def test_heads_that_do_not_divide_are_refused(heads: int, kv: int, size: int, told: str) -> None:
    with pytest.raises(UsageError, match=f"{heads} query heads and {kv} key-value heads .* {size} devices; {told}"):
        build(Shape(heads=heads, kv_heads=kv), {}, Parallel(0, size))


def test_each_query_head_is_with_its_key_value_head() -> None:
    for heads, kv in ((8, 2), (8, 8), (12, 3), (8, 1)):
        for size in range(1, heads + 1):
            if heads % size or (kv % size and size % kv):
                continue
            for rank in range(size):
                cut = Parallel(rank, size).heads(heads, kv)
                each = (cut.q[1] - cut.q[0]) // (cut.kv[1] - cut.kv[0])
                for query in range(*cut.q):
                    assert cut.kv[0] + (query - cut.q[0]) // each == query // (heads // kv)


def test_fewer_experts_than_ranks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"2 experts cannot be divided among 3 devices; use at most 2"):
        build(Shape(kv_heads=1, experts=2), {}, Parallel(0, 3))


def test_a_cut_within_a_group_is_refused_with_the_weight() -> None:
    shape = Shape(head_dim=4)  # 12 columns of the output projection for each rank
    tensors = quantized(checkpoint(shape))
    with pytest.raises(CheckpointError) as refused:
        build(shape, tensors, Parallel(1, 2))
    assert str(refused.value) == (
        "blocks.0.attention.out: a weight of type int8 cannot be cut at columns 12 and 24 of 24: 8 of them are stored "
        "together; use a number of devices that its groups can be divided by, or a checkpoint in another format"
    )


def test_columns_in_several_ranges() -> None:
    tensors = quantized({"x.weight": torch.randn(4, 32)})
    kept = []
    for cut in (ColumnCut(((8, 16), (24, 32))), None):
        ctx = make_context(Parallel(0, 2))
        layer = ctx.linear("x", 32, 4, cut=cut)
        load(ctx, tensors)
        kept.append(layer.kernels[0].weight.dense(torch.float32))
    assert torch.equal(kept[0], torch.cat([kept[1][:, 8:16], kept[1][:, 24:32]], 1))


# Memory


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", ["two kv heads", "fused", "stored together", "tied", "experts"])
def test_each_rank_holds_its_part(name: str, grouped: bool) -> None:
    shape = SHAPES[name][0]
    tensors = quantized(checkpoint(shape), skip=("router",)) if grouped else checkpoint(shape)
    _, whole = build(shape, tensors)
    total = sum(layer.nbytes for layer in set(whole.layers.values()))
    shares = []
    for rank in range(2):
        _, ctx = build(shape, tensors, Parallel(rank, 2))
        layers = set(ctx.layers.values())
        for layer in layers:
            for kernel in layer.kernels:
                for held in _tensors_of(kernel.weight):
                    assert layer.cut is None or held.untyped_storage().nbytes() == held.nbytes, "memory of the whole"
        shares.append(sum(layer.nbytes for layer in layers))
        cached = [[ctx.backend.block_bytes(a.spec) for a in c.attention_layers] for c in (ctx, whole)]
        assert [2 * part for part in cached[0]] == cached[1]
    assert sum(shares) <= 1.05 * total  # routers, and what has fewer rows than ranks
    assert max(shares) < 0.65 * total


def _tensors_of(weight: Tensor | StoredWeight) -> list[Tensor]:
    return [weight] if isinstance(weight, Tensor) else [field.data for field in weight.fields().values()]


# One device


class _Traced(TorchFunctionMode):
    """What is called of torch. (A mode of its dispatcher would see what those calls do, and takes seconds to import.)"""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


def trace(action: Callable[[], Any]) -> list[str]:
    with torch.inference_mode(), _Traced() as traced:
        action()
    return traced.calls


def test_layers_of_one_device_do_what_plain_ones_do() -> None:
    ctx = make_context()
    table = ctx.embedding("table", 31, 24)
    linear = ctx.linear("linear", 24, 8, bias=True, cut="columns")
    own = ctx.linear("own", 24, 8, cut=RowCut({"own": ((0, 4),)}))
    head = ctx.head("head", 24, 31, tied=table)
    attention = SelfAttention(ctx, "a", channels=24, num_heads=6, num_kv_heads=2, head_dim=8)
    experts = ctx.experts([("g", "u", "d"), ("g2", "u2", "d2")], 24, 8, 2)
    shapes = WeightReader(ctx, choices(), {}).expected()
    load(ctx, {name: torch.randn(shape) for name, shape in shapes.items()})
    x, ids = torch.randn(3, 24), torch.tensor([1, 2, 3])
    w, bias, rows = torch.randn(8, 24), torch.randn(8), torch.randn(31, 24)
    assert trace(lambda: table(ids)) == trace(lambda: F.embedding(ids, rows))
    assert trace(lambda: linear(x)) == trace(lambda: F.linear(x, w) + bias)
    assert own(x).shape == (3, 8), "one device has all of a layer, whatever cut it says"
    assert trace(lambda: own(x)) == trace(lambda: F.linear(x, w))
    assert trace(lambda: head(x)) == trace(lambda: F.linear(x, w))
    assert trace(lambda: attention.qkv(x)) == trace(lambda: F.linear(x, w))
    chosen, weights = torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)
    assert trace(lambda: experts(x, chosen, weights)) == trace(lambda: experts.kernel(x, chosen, weights))


def test_a_whole_model_of_one_device_has_nothing_of_cuts() -> None:
    of_cuts = {"lt", "__or__", "masked_fill"}
    for shape in (Shape(norm_by="whole", tied=True, biases=True), MIXTURE):
        model, ctx = build(shape, checkpoint(shape), Parallel(0, 1))  # its communicator refuses every exchange
        calls = Counter(trace(lambda model=model, ctx=ctx: run_tokens(model, ctx, PROMPT)))
        assert not calls.keys() & of_cuts
        assert calls["embedding"] == 3
        assert not any(isinstance(module, CutRMSNorm) for module in model.modules())
    assert of_cuts <= set(trace(lambda: _run_alone(PLAIN))), "what is looked for is what a cut model does"


def _run_alone(shape: Shape) -> None:
    class Echo:
        def all_reduce(self, x: Tensor) -> Tensor:
            return x

        def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
            return x.new_zeros(*x.shape[:-1], sum(sizes))

    model, ctx = build(shape, checkpoint(shape), Parallel(0, 2, Echo()))
    run_tokens(model, ctx, PROMPT)


def test_ranks_without_a_communicator_are_not_run() -> None:
    model, ctx = build(PLAIN, checkpoint(PLAIN), Parallel(0, 2))
    with pytest.raises(AssertionError, match="need a communicator"):
        run_tokens(model, ctx, PROMPT)


# What goes with layers


def test_sinks_are_those_of_the_ranks_heads() -> None:
    values = torch.arange(6.0)
    for size, kv in ((1, 2), (2, 2), (3, 1)):
        found = []
        for rank in range(size):
            ctx = make_context(Parallel(rank, size))
            block = SelfAttention(ctx, "a", channels=24, num_heads=6, num_kv_heads=kv, head_dim=8, sinks="sinks")
            rows = {"a.q_proj": 48, "a.k_proj": kv * 8, "a.v_proj": kv * 8}
            tensors = {f"{part}.weight": torch.zeros(count, 24) for part, count in rows.items()}
            load(ctx, {**tensors, "a.o_proj.weight": torch.zeros(24, 48), "a.sinks": values})
            assert block.attention.sinks is not None
            assert block.attention.sinks.shape == (block.attention.spec.num_heads,)
            found.append(block.attention.sinks)
        assert torch.equal(torch.cat(found), values)


def test_slopes_are_those_of_the_ranks_heads() -> None:
    slopes = alibi_slopes(6)
    for size, kv in ((1, 2), (2, 2), (3, 1)):
        found: list[float] = []
        for rank in range(size):
            ctx = make_context(Parallel(rank, size))
            block = SelfAttention(ctx, "a", channels=24, num_heads=6, num_kv_heads=kv, head_dim=8, alibi_slopes=slopes)
            found += block.attention.spec.alibi_slopes or ()
            own = ctx.backend.alibi_slopes(block.attention.spec)
            assert own is not None
            assert own.tolist() == pytest.approx(found[-len(own) :])
        assert tuple(found) == slopes


def test_sinks_of_attention_that_is_not_cut_are_whole() -> None:
    ctx = make_context(Parallel(1, 2))
    layer: Attention = ctx.attention(AttentionSpec(6, 2, 8, 1.0, sinks=True), sinks="sinks")
    load(ctx, {"sinks": torch.arange(6.0)})
    assert layer.sinks is not None
    assert layer.sinks.tolist() == [0, 1, 2, 3, 4, 5]


def test_a_layer_norm_over_all_ranks_channels_is_refused() -> None:
    with pytest.raises(UsageError, match="the layer norm x over the channels of all devices"):
        make_context(Parallel(0, 2)).norm("x", 8, 1e-6, kind="layer", cut=(0, 4))


def test_rows_of_a_normalized_head_have_the_length_one() -> None:
    weight, x = 3 * torch.randn(31, 24), torch.randn(5, 24)
    parts = []
    for size in (1, 2):
        for rank in range(size):
            ctx = make_context(Parallel(rank, size))
            head = ctx.head("head", 24, 31, normalized=True)
            load(ctx, {"head.weight": weight})
            assert head.lengths is not None
            parts.append(Linear.forward(head, x) / head.lengths)
            if size == 1:
                torch.testing.assert_close(head(x), x @ F.normalize(weight).T)
    torch.testing.assert_close(torch.cat(parts[1:], 1), parts[0])


def test_a_head_is_cut_although_its_table_is_not() -> None:
    table = torch.randn(31, 24)
    parts = []
    for rank in range(2):
        ctx = make_context(Parallel(rank, 2))
        embedding = ctx.embedding("table", 31, 24, cut=False)
        head: Head = ctx.head("head", 24, 31, tied=embedding)
        load(ctx, {"table.weight": table})
        assert torch.equal(embedding(torch.tensor([30])), table[30:])
        parts.append(head.kernels[0].weight)
    assert [len(part) for part in parts] == [16, 15]
    assert torch.equal(torch.cat(parts), table)


@pytest.mark.parametrize("name", ["two kv heads", "one kv head", "fused", "biases"])
def test_adapters_are_cut_with_their_layers(name: str) -> None:
    shape, sizes = SHAPES[name]
    tensors = checkpoint(shape)
    generator = torch.Generator().manual_seed(2)

    def run(parallel: Parallel | None = None, adapted: bool = True) -> Tensor:
        model, ctx = build(shape, tensors, parallel, max_loras=2, max_lora_rank=4)
        assert ctx.adapters is not None
        if adapted:
            ctx.adapters.write(2, weights)
        ctx.adapters.unselected = (torch.full((len(PROMPT),), 2)[:, None] != torch.arange(1, 3))[:, :, None]
        return run_tokens(model, ctx, PROMPT)

    _, ctx = build(shape, tensors)
    weights = {
        part: (torch.randn(4, shape_[1], generator=generator), 0.1 * torch.randn(shape_[0], 4, generator=generator))
        for part, layer in ctx.layers.items()
        if isinstance(layer, Linear) and layer.kind == "linear"
        for shape_ in [layer.parts[part]]
    }
    whole = run()
    assert not torch.allclose(whole, run(adapted=False), atol=0.1)
    for size in sizes:
        for found in run_ranks(size, run):
            torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-4)


def test_the_reference_of_experts_is_cut_as_well() -> None:
    """Ranks whose experts a token did not choose add nothing."""
    tensors = checkpoint(MIXTURE)
    x, ids = torch.randn(4, 24), torch.tensor([[0, 1]] * 4)
    shares = torch.full((4, 2), 0.5)
    found = []
    for rank in range(2):
        ctx = make_context(Parallel(rank, 2))
        mixture = Mixture(MIXTURE, ctx, "blocks.0.mlp")
        own = [replace(c, kernels=[("every", EveryExpert)]) if c.kind == "experts" else c for c in choices()]
        WeightReader(ctx, own, {}).load(lazy_tensors({n: t for n, t in tensors.items() if ".mlp." in n}))
        assert mixture.experts.kernel is not None
        found.append(mixture.experts.kernel(x, ids, shares))
    assert found[0].abs().sum() > 0
    assert not found[1].any()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("stored", [dict, quantized])
def test_sections_of_heads_are_dequantized_and_cut(stored: Callable[..., dict[str, Tensor]], size: int) -> None:
    """A weight that is multiplied head by head, and from either side."""
    heads, sizes, columns = 4, (6, 2), 16
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(heads * sum(sizes), columns, generator=generator)
    keys, values = dense.unflatten(0, (heads, -1)).split(sizes, 1)
    for rank in range(size):
        ctx = make_context(Parallel(rank, size))
        cut = ctx.parallel.heads(heads, heads)
        layer = ctx.head_sections("kv_b", sizes, columns, cut)
        load(ctx, stored({"kv_b.weight": dense}))
        own = slice(*cut.q)
        for section, wanted in zip(layer.sections, (keys[own], values[own]), strict=True):
            torch.testing.assert_close(section, wanted, rtol=0, atol=0.02)
        assert layer.nbytes == 4 * dense.numel() // size
        x = torch.randn(3, heads // size, sizes[0], generator=generator)
        wanted = torch.stack([x[:, head] @ keys[own][head] for head in range(heads // size)], 1)
        found = ctx.ops.linear_by_head(x, layer.sections[0].mT)
        torch.testing.assert_close(found, wanted, rtol=0, atol=0.1 if stored is quantized else 1e-5)


@pytest.mark.parametrize("size", [1, 2])
def test_a_stack_of_heads_is_cut(size: int) -> None:
    stack = torch.randn(4, 6, 16)
    for rank in range(size):
        ctx = make_context(Parallel(rank, size))
        cut = ctx.parallel.heads(4, 4)
        layer = ctx.head_stack("k_b", 6, 16, cut)
        load(ctx, {"k_b": stack})
        assert torch.equal(layer.matrices, stack[slice(*cut.q)])
        assert layer.nbytes == 4 * stack.numel() // size
