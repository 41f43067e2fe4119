"""Adapters in slots, against the slow and obvious way: a copy of the layer for each adapter, with the products added to its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from dovetail.nn import Context, Linear, Ops, Step
from dovetail.nn.affine import AffineKernel
from dovetail.nn.dense import DenseKernel, DenseWeight
from dovetail.nn.lora import AdapterWeights
from dovetail.nn.weights import StoredWeight, WeightKernel
from dovetail.testing import AffineSample, ReferenceAttention

T, K, SLOTS, RANK = 48, 32, 3, 8
QKV = {"attn.q": 24, "attn.k": 8, "attn.v": 8}
DEVICE = torch.device("cpu")


def make_context(max_loras: int = SLOTS, dtype: torch.dtype = torch.float32, ops: Ops | None = None) -> Context:
    attention = ReferenceAttention(device=DEVICE, dtype=dtype, kv_dtype=dtype, block_size=8)
    return Context(
        device=DEVICE,
        dtype=dtype,
        ops=ops or Ops(),
        attention=attention,
        max_tokens=64,
        max_loras=max_loras,
        max_lora_rank=RANK if max_loras else 0,
    )


def make_step(adapters: Tensor | None) -> Step:
    """A step of which layers see nothing but its adapters."""
    none = torch.zeros(0, dtype=torch.int64)
    return Step(none, none, none.int(), none.int(), none, (), 1, 1, adapters=adapters)


def fill(
    layer: Linear,
    make_weight: Callable[[int, int], StoredWeight],
    kernel: type[WeightKernel] = DenseKernel,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Give a layer weights; its dense matrix ``[N, K]``."""
    weights = {part: make_weight(*shape) for part, shape in layer.parts.items()}
    layer.finish(dict(weights), lambda weight, kind: kernel(weight, kind, DEVICE, dtype))
    return torch.cat([w.dense(dtype) for w in weights.values()])


def dense(rows: int, columns: int) -> DenseWeight:
    return DenseWeight.of(torch.randn(rows, columns) * columns**-0.5, "float32")


def affine(rows: int, columns: int) -> AffineSample:
    return AffineSample.random(rows, columns, bits=4, group=16, mins=True, signed=False)


def make_adapter(parts: Mapping[str, int], rank: int, columns: int = K) -> AdapterWeights:
    return {
        part: (torch.randn(rank, columns) * columns**-0.5, torch.randn(rows, rank) * rank**-0.5)
        for part, rows in parts.items()
    }


def merged(weight: Tensor, parts: Mapping[str, int], adapter: AdapterWeights) -> Tensor:
    """The layer's weight as a model has it that was merged with the adapter."""
    products = [
        adapter[part][1] @ adapter[part][0] if part in adapter else torch.zeros(rows, weight.shape[1])
        for part, rows in parts.items()
    ]
    return weight + torch.cat(products)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("make_weight", "kernel"), [(dense, DenseKernel), (affine, AffineKernel)])
@pytest.mark.parametrize("bias", [False, True])
def test_each_row_gets_the_layer_merged_with_its_own_adapter(
    make_weight: Callable[[int, int], StoredWeight], kernel: type[WeightKernel], bias: bool
) -> None:
    ctx = make_context()
    layer = ctx.linear(QKV, K, bias=bias)
    weight = fill(layer, make_weight, kernel)
    if bias:
        layer.bias = torch.randn(sum(QKV.values()))
    adapters = [
        {},
        make_adapter({"attn.q": 24, "attn.v": 8}, RANK),  # a fused layer of which only some parts are adapted
        make_adapter({"attn.k": 8}, 3),  # a rank lower than the slot's
        make_adapter(QKV, 5),
    ]
    assert ctx.adapters is not None
    for slot, adapter in enumerate(adapters[1:], 1):
        ctx.adapters.write(slot, adapter)
    x, chosen = torch.randn(T, K), torch.randint(SLOTS + 1, (T,))
    ctx.adapters.begin_step(make_step(chosen))
    found = layer(x)
    wanted = torch.stack(
        [
            torch.nn.functional.linear(row, merged(weight, QKV, adapters[slot]), layer.bias)
            for row, slot in zip(x, chosen.tolist(), strict=True)
        ]
    )
    assert set(chosen.tolist()) == {0, 1, 2, 3}
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_rows_without_an_adapter_are_bitwise_those_of_the_model() -> None:
    ctx, plain = make_context(), make_context(max_loras=0)
    layers = [c.linear(QKV, K) for c in (ctx, plain)]
    for layer in layers:
        torch.manual_seed(1)
        fill(layer, dense)
    assert ctx.adapters is not None
    ctx.adapters.write(2, make_adapter(QKV, RANK))
    x, chosen = torch.randn(T, K), torch.tensor([0, 2] * (T // 2))
    ctx.adapters.begin_step(make_step(chosen))
    base, mixed = layers[1](x), layers[0](x)
    assert torch.equal(mixed[chosen == 0], base[chosen == 0])
    assert not torch.isclose(mixed[chosen == 2], base[chosen == 2]).all(-1).any()
    ctx.adapters.begin_step(make_step(None))
    assert torch.equal(layers[0](x), base)


def test_a_model_without_slots_has_nothing_to_pay_for() -> None:
    ctx = make_context(max_loras=0)
    assert ctx.adapters is None
    assert ctx.linear("a", K, K).lora is None


def test_embeddings_and_heads_take_no_slots() -> None:
    ctx = make_context()
    ctx.embedding("embed", 16, K)
    assert ctx.head("head", K, 16).lora is None
    assert ctx.adapters is not None
    assert ctx.adapters.layers == []


def test_an_adapter_leaves_nothing_behind_in_its_slot() -> None:
    ctx = make_context()
    layers = [ctx.linear(QKV, K), ctx.linear("out", K, K)]
    assert ctx.adapters is not None
    small = make_adapter({"attn.k": 8}, 2)
    ctx.adapters.write(1, make_adapter({**QKV, "out": K}, RANK))
    ctx.adapters.write(1, small)
    for layer in layers:
        weight = fill(layer, dense)
        x = torch.randn(4, K)
        ctx.adapters.begin_step(make_step(torch.ones(4, dtype=torch.int64)))
        torch.testing.assert_close(
            layer(x),
            x @ merged(weight, {part: rows for part, (rows, _) in layer.parts.items()}, small).T,
            rtol=1e-5,
            atol=1e-5,
        )


def test_what_overflows_in_one_adapter_does_not_reach_the_rows_of_another() -> None:
    ctx = make_context(dtype=torch.float16)
    layer = ctx.linear("a", K, 16)
    weight = fill(layer, dense, dtype=torch.float16)
    huge = {"a": (torch.full((RANK, K), 6e4).half(), torch.zeros(16, RANK).half())}
    small = {name: (a.half(), b.half()) for name, (a, b) in make_adapter({"a": 16}, RANK).items()}
    assert ctx.adapters is not None
    ctx.adapters.write(1, huge)
    ctx.adapters.write(2, small)
    x = torch.ones(2, K).half()
    ctx.adapters.begin_step(make_step(torch.tensor([2, 0])))
    assert torch.isinf(x @ huge["a"][0].T).all()
    wanted = torch.stack([x[0] @ merged(weight, {"a": 16}, small).T, x[1] @ weight.T])
    torch.testing.assert_close(layer(x), wanted, rtol=5e-3, atol=5e-3)


def row_by_row(x: Tensor, weight: Tensor) -> Tensor:
    """A product that no other row has a part in. (Four copies of each row, since a library may take another path for one.)"""
    return torch.stack([torch.nn.functional.linear(row.expand(4, -1), weight)[0] for row in x])


def test_with_an_invariant_product_neither_the_slot_nor_the_neighbours_change_a_bit() -> None:
    """At the sizes of a real layer, where libraries split their sums."""
    columns, rows, found = 512, 384, []
    generator = torch.Generator().manual_seed(1)
    adapter = {"a": (torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator))}
    x = torch.randn(41, columns, generator=generator)
    for slot, beside in [(1, 0), (3, 5), (2, 40)]:
        ctx = make_context(ops=Ops({"linear": row_by_row}))
        layer = ctx.linear("a", columns, rows)
        assert ctx.adapters is not None
        assert layer.lora is not None
        neighbour = slot % SLOTS + 1
        ctx.adapters.write(slot, adapter)
        ctx.adapters.write(neighbour, make_adapter({"a": rows}, RANK, columns))
        ctx.adapters.begin_step(make_step(torch.tensor([slot] + [neighbour] * beside)))
        found.append(layer.lora.add(torch.zeros(1 + beside, rows), x[: 1 + beside])[0])
    torch.testing.assert_close(found[0], adapter["a"][1] @ (adapter["a"][0] @ x[0]), rtol=1e-4, atol=1e-3)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
