"""Qwen 2 and 3: Llama's block. Queries, keys and values have biases in the second generation (Yang et al., 2024), and
queries and keys a norm of each head in the third (Yang et al., 2025).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, PreNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_qwen.config import Qwen2Config, Qwen3Config


def make_block(c: Qwen2Config, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, eps=c.rms_norm_eps)
    own: dict[str, Any] = {"bias": True}
    if isinstance(c, Qwen3Config):
        own = {"bias": c.attention_bias, "out_bias": c.attention_bias, "qk_norm": norm}
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        causal=c.is_causal,
        **own,
    )
    return PreNormBlock(
        norm(f"{name}.input_layernorm", c.hidden_size),
        attention,
        norm(f"{name}.post_attention_layernorm", c.hidden_size),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act),
    )


class QwenModel(Decoder):
    def __init__(self, c: Qwen2Config, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class QwenForCausalLM(CausalDecoder, QwenModel): ...


class QwenForSequenceClassification(SequenceClassifier, QwenModel): ...
