"""Gemma: blocks as Llama's, with norms of the form ``1 + w`` that are computed in float32, a gate with GELU, and
embeddings that are multiplied by the root of their size (Gemma team, 2024).

Gemma 2 adds norms after attention and MLP, soft caps on scores and logits, and a sliding window in every second layer.
"""

from __future__ import annotations

from functools import partial

import torch

from dovetail.nn import CausalDecoder, Context, GatedMLP, PreNormBlock, SelfAttention
from dovetail_models_gemma.config import Gemma2Config, GemmaConfig


def make_block(c: GemmaConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    second = isinstance(c, Gemma2Config)
    make = partial(ctx.norm, channels=c.hidden_size, eps=c.rms_norm_eps, offset=c.norm_offset, wide=True)
    attention = SelfAttention(
        ctx,
        f"{name}.self_attn",
        channels=c.hidden_size,
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        window=c.window(layer),
        softcap=c.attn_logit_softcapping if isinstance(c, Gemma2Config) else None,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        scale=c.scale,
    )
    return PreNormBlock(
        make(f"{name}.input_layernorm"),
        attention,
        make(f"{name}.pre_feedforward_layernorm" if second else f"{name}.post_attention_layernorm"),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation="gelu_tanh"),
        attended_norm=make(f"{name}.post_attention_layernorm") if second else None,
        out_norm=make(f"{name}.post_feedforward_layernorm") if second else None,
    )


class GemmaForCausalLM(CausalDecoder):
    def __init__(self, c: GemmaConfig, ctx: Context) -> None:
        super().__init__(
            c,
            ctx,
            partial(make_block, c, ctx),
            partial(ctx.norm, eps=c.rms_norm_eps, offset=c.norm_offset, wide=True),
            softcap=c.final_logit_softcapping if isinstance(c, Gemma2Config) else None,
            # Rounded, as it was in training.
            embedding_multiplier=float(torch.tensor(c.hidden_size**0.5, dtype=ctx.dtype)),
        )
