"""Decoders whose products take over the norms between them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.api import DecoderConfig
from dovetail.nn import CausalDecoder, Context, DeferredNorm, Gate, GatedMLP, Ops, PreNormBlock, SelfAttention
from dovetail.nn.dense import DenseKernel
from dovetail.nn.loading import WeightReader
from dovetail.testing import ReferenceAttention, lazy_tensors, run_tokens
from dovetail.testing.harness import dense_choices

CPU = torch.device("cpu")
LAYERS = 3


class Deferring(DenseKernel):
    """Takes over norms of up to two tokens."""

    calls: list[str]

    def defers(self, tokens: int) -> bool:
        return tokens <= 2

    def multiply_and_add(self, x: Tensor, residual: Tensor, scale: Tensor, eps: float) -> DeferredNorm:
        self.calls.append("add")
        return DeferredNorm(residual + self(x), scale, eps)

    def multiply_deferred(self, x: DeferredNorm, gate: Gate | None) -> Tensor:
        self.calls.append("norm")
        out = self(self.ops.rms_norm(x.total, x.scale, x.eps))
        return out if gate is None else gate(out)


class Other(Deferring):
    """Not its like, so that neither reads what the other one left."""


class Tiny(CausalDecoder):
    def __init__(self, c: DecoderConfig, ctx: Context, **parts: Any) -> None:
        norm = partial(ctx.norm, eps=1e-5)

        def block(name: str, layer: int) -> PreNormBlock:
            attention = SelfAttention.from_config(c, ctx, f"{name}.self_attn", layer)
            mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size)
            first, second = (norm(f"{name}.{part}", c.hidden_size) for part in ("input_layernorm", "mlp_norm"))
            return PreNormBlock(first, attention, second, mlp, **parts)

        super().__init__(c, ctx, block, norm)


CONFIG = DecoderConfig.model_validate(
    {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
    }
)


def run(kernel: Any, chunks: int, other: Any = None, **parts: Any) -> Tensor:
    """Hidden states of some tokens, with another kernel for the layers' norms of layer 1 if there is one."""
    backend = ReferenceAttention(device=CPU, dtype=torch.float32, kv_dtype=torch.float32, block_size=8)
    ctx = Context(device=CPU, dtype=torch.float32, ops=Ops(), attention=backend, max_tokens=64)
    model = Tiny(CONFIG, ctx, **parts)
    generator = torch.Generator().manual_seed(0)
    shapes = {f"{name}.weight": shape for layer in ctx.layers.values() for name, shape in layer.parts.items()}
    shapes |= {name: slot.shape for name, slot in ctx.vectors.items()}
    tensors = {name: torch.randn(shape, generator=generator) * shape[-1] ** -0.5 for name, shape in shapes.items()}
    choices = [replace(c, kernels=[("k", kernel)]) if c.kind == "linear" else c for c in dense_choices()]
    WeightReader(ctx, choices, {}).load(lazy_tensors(tensors))
    if other is not None:
        for layer in (model.blocks[1].mlp.down, model.blocks[2].mlp.down):
            layer.kernels[0].__class__ = other
    return run_tokens(model, ctx, list(range(9)), chunks)


@pytest.mark.parametrize("chunks", [1, 2, 3])
def test_deferred_norms_give_the_same(chunks: int) -> None:
    Deferring.calls = []
    found = run(Deferring, chunks)
    torch.testing.assert_close(found, run(DenseKernel, chunks))
    steps = {1: 9, 2: 5, 3: 0}[chunks]
    # The first norm has no product before it, and the last none after it.
    assert Deferring.calls.count("add") == Deferring.calls.count("norm") == steps * (2 * LAYERS - 1)


def test_kernels_of_another_class_are_left_alone() -> None:
    Deferring.calls = []
    torch.testing.assert_close(run(Deferring, 1, Other), run(DenseKernel, 1))
    # Layers 1 and 2 mix kernels, and what layer 0 leaves goes to its own products alone.
    assert Deferring.calls == ["add", "norm"] * 9


def test_a_block_with_more_between_its_products_defers_nothing() -> None:
    Deferring.calls = []
    torch.testing.assert_close(run(Deferring, 1, multiplier=0.5), run(DenseKernel, 1, multiplier=0.5))
    assert not Deferring.calls
