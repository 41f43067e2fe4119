"""Qwen 2 and 3 with experts: the blocks of the dense models with a mixture in place of the MLP (Yang et al., 2024 and
2025). The second generation also has an expert that all tokens share, behind a gate.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dovetail.nn import (
    CausalDecoder,
    Context,
    Decoder,
    GatedMLP,
    Mixture,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_qwen_moe.config import Qwen2MoeConfig, Qwen3MoeConfig, QwenMoeConfig


def make_mlp(c: QwenMoeConfig, ctx: Context, name: str, layer: int) -> GatedMLP | Mixture:
    gated = partial(GatedMLP, ctx, channels=c.hidden_size, activation=c.hidden_act)
    if not c.has_experts(layer):
        return gated(name, inner=c.intermediate_size)
    shared: dict[str, Any] = {}
    if isinstance(c, Qwen2MoeConfig):
        mlp = gated(f"{name}.shared_expert", inner=c.shared_expert_intermediate_size)
        shared = {"shared": mlp, "shared_gate": "shared_expert_gate"}
    return Mixture(
        ctx,
        name,
        c.hidden_size,
        c.moe_intermediate_size,
        experts=c.num_experts,
        top_k=c.num_experts_per_tok,
        activation=c.hidden_act,
        renormalize=c.norm_topk_prob,
        **shared,
    )


def make_block(c: QwenMoeConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, eps=c.rms_norm_eps)
    own: dict[str, Any] = {}
    if isinstance(c, Qwen2MoeConfig):
        own = {"bias": c.qkv_bias}
    elif isinstance(c, Qwen3MoeConfig):
        own = {"bias": c.attention_bias, "out_bias": c.attention_bias, "qk_norm": norm}
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        **own,
    )
    return PreNormBlock(
        norm(f"{name}.input_layernorm", c.hidden_size),
        attention,
        norm(f"{name}.post_attention_layernorm", c.hidden_size),
        make_mlp(c, ctx, f"{name}.mlp", layer),
    )


class QwenMoeModel(Decoder):
    def __init__(self, c: QwenMoeConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class QwenMoeForCausalLM(CausalDecoder, QwenMoeModel): ...


class QwenMoeForSequenceClassification(SequenceClassifier, QwenMoeModel): ...
