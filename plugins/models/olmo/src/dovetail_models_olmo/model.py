"""OLMo 2 and 3: blocks with norms of what attention and MLP give, and norms of queries and keys over all heads (OLMo
team, 2024 and 2025). OLMo 3 has a sliding window in three of four layers, with angles of its own.
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, PostNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_olmo.config import OlmoConfig


def make_block(c: OlmoConfig, ctx: Context, name: str, layer: int) -> PostNormBlock:
    norm = partial(ctx.norm, eps=c.rms_norm_eps, wide=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        qk_norm=norm,
        norm_by="whole",
    )
    return PostNormBlock(
        attention,
        norm(f"{name}.post_attention_layernorm", c.hidden_size),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act),
        norm(f"{name}.post_feedforward_layernorm", c.hidden_size),
    )


class OlmoModel(Decoder):
    def __init__(self, c: OlmoConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps, wide=True))


class OlmoForCausalLM(CausalDecoder, OlmoModel): ...


class OlmoForSequenceClassification(SequenceClassifier, OlmoModel): ...
