"""Quantized matrices that two ranks share: blocks of 32 and of 256 columns stay whole, or the cut is refused."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from dovetail_quant_gguf.format import GgufFormat
from torch import Tensor, nn

from dovetail.api import CheckpointError, LazyTensor
from dovetail.nn import Context, GatedMLP, Ops, Parallel, SelfAttention
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DequantizeKernel
from dovetail.nn.loading import WeightReader
from dovetail.nn.placing import WeightChoice
from dovetail.testing import ReferenceAttention, run_ranks

from .blocks import ENCODED, gaussian_rows, lazy, oracle, random_rows

CPU = torch.device("cpu")
TOKENS = 5


class Layers(nn.Module):
    """Projections of attention and an MLP, without what is between q, k, v and output."""

    def __init__(self, ctx: Context, channels: int, inner: int, head_dim: int) -> None:
        super().__init__()
        self.table = ctx.embedding("table", 31, channels)
        self.attention = SelfAttention(
            ctx, "a", channels=channels, num_heads=4, num_kv_heads=2, head_dim=head_dim, names=("q", "k", "v", "o")
        )
        self.mlp = GatedMLP(ctx, "m", channels, inner, names=("gate", "up", "down"))
        self.head = ctx.head("head", channels, 31, tied=self.table)
        self.queries = self.attention.num_heads * head_dim

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x = x + self.attention.out(self.attention.qkv(x)[:, : self.queries])
        return self.head(x + self.mlp(x))


def build(
    parallel: Parallel, tensors: Mapping[str, LazyTensor], kernel: type, inner: int, head_dim: int, channels: int = 256
) -> tuple[Layers, Context]:
    attention = ReferenceAttention(device=CPU, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    ctx = Context(device=CPU, dtype=torch.float32, ops=Ops(), attention=attention, max_tokens=8, parallel=parallel)
    layers = Layers(ctx, channels, inner, head_dim)
    choices = [
        WeightChoice(kind, type_, GgufFormat, [("kernel", DequantizeKernel if kind == "embedding" else kernel)])
        for type_ in {tensor.type for tensor in tensors.values()}
        for kind in ("linear", "head", "embedding")
    ]
    WeightReader(ctx, choices, {}).load(tensors.values())
    return layers, ctx


def checkpoint(types: Mapping[str, str], inner: int, head_dim: int, channels: int = 256) -> dict[str, LazyTensor]:
    """A checkpoint whose matrices have these types; the type of "" is that of the others."""
    shapes = {
        "table": (31, channels),
        "a.q": (4 * head_dim, channels),
        "a.k": (2 * head_dim, channels),
        "a.v": (2 * head_dim, channels),
        "a.o": (channels, 4 * head_dim),
        "m.gate": (inner, channels),
        "m.up": (inner, channels),
        "m.down": (channels, inner),
    }
    tensors = {}
    for seed, (name, shape) in enumerate(shapes.items()):
        type_ = types.get(name, types[""])
        rows = gaussian_rows if type_ in ENCODED else random_rows
        tensors[name] = lazy(type_, rows(type_, *shape, seed), shape, f"{name}.weight")
    return tensors


@pytest.mark.parametrize("kernel", [DequantizeKernel, AffineKernel])
@pytest.mark.parametrize(
    ("types", "size", "inner", "head_dim"),
    [
        ({"": "q8_0"}, 2, 96, 16),  # 64 and 32 inner channels
        ({"": "q4_k"}, 2, 768, 128),  # 512 and 256
        ({"": "q6_k", "a.k": "q4_0", "m.up": "q8_0"}, 2, 512, 128),  # parts of one layer in different types
    ],
)
def test_ranks_give_what_the_whole_gives(
    types: dict[str, str], size: int, inner: int, head_dim: int, kernel: type
) -> None:
    tensors = checkpoint(types, inner, head_dim)
    ids = torch.tensor([1, 5, 30, 17, 0])
    whole, ctx = build(Parallel(), tensors, kernel, inner, head_dim)
    total = sum(layer.nbytes for layer in ctx.layers.values())

    def work(parallel: Parallel) -> tuple[Tensor, int]:
        layers, own = build(parallel, tensors, kernel, inner, head_dim)
        return layers(ids), sum(layer.nbytes for layer in own.layers.values())

    with torch.inference_mode():
        expected = whole(ids).double()
    ranks = run_ranks(size, work)
    for found, _ in ranks:
        error = (found.double() - expected).norm() / expected.norm()
        assert error < 1e-5
        assert torch.equal(found, ranks[0][0])
    assert sum(nbytes for _, nbytes in ranks) == total


def test_rows_and_columns_are_those_of_the_matrix() -> None:
    tensors = checkpoint({"": "q4_k"}, 512, 128)
    for rank in range(2):
        layers, _ = build(Parallel(rank, 2), tensors, DequantizeKernel, 512, 128)
        down = oracle("q4_k", tensors["m.down"].read())
        found = layers.mlp.down.kernels[0].weight.dense(torch.float32)
        assert torch.equal(found, down[:, 256 * rank : 256 * (rank + 1)])
        table = oracle("q4_k", tensors["table"].read())
        assert torch.equal(layers.head.kernels[0].weight.dense(torch.float32), table[16 * rank : 16 * (rank + 1)])


@pytest.mark.parametrize(
    ("types", "inner", "head_dim", "told"),
    [
        (
            {"": "q4_k"},
            256,
            128,
            "m.down: a weight of type q4_k cannot be cut at columns 0 and 128 of 256: 256 of them",
        ),
        ({"": "q4_k"}, 512, 64, "a.o: a weight of type q4_k cannot be cut at columns 0 and 128 of 256: 256 of them"),
        ({"": "q8_0"}, 512, 8, "a.o: a weight of type q8_0 cannot be cut at columns 0 and 16 of 32: 32 of them"),
    ],
)
def test_cuts_within_a_block_are_refused(types: dict[str, str], inner: int, head_dim: int, told: str) -> None:
    with pytest.raises(CheckpointError) as refused:
        build(Parallel(0, 2), checkpoint(types, inner, head_dim), DequantizeKernel, inner, head_dim)
    assert told in str(refused.value)
