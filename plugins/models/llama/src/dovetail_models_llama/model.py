"""Llama: pre-norm blocks of rotary grouped-query attention and a gated MLP (Touvron et al., 2023).

Mistral adds a sliding window, Granite four scalar multipliers, and SmolLM 3 layers without positions (Yang et al.,
2025); everything else is configuration.
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, PreNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_llama.config import GraniteConfig, LlamaConfig


def make_block(c: LlamaConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        scale=c.attention_multiplier if isinstance(c, GraniteConfig) else None,
    )
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, bias=c.mlp_bias),
        multiplier=c.residual_multiplier if isinstance(c, GraniteConfig) else 1.0,
    )


class LlamaModel(Decoder):
    def __init__(self, c: LlamaConfig, ctx: Context) -> None:
        granite = c if isinstance(c, GraniteConfig) else None
        super().__init__(
            c,
            ctx,
            partial(make_block, c, ctx),
            partial(ctx.norm, eps=c.rms_norm_eps),
            embedding_multiplier=granite.embedding_multiplier if granite else 1.0,
            logits_multiplier=1.0 / granite.logits_scaling if granite else 1.0,
        )
        self.expect_rope_factors(c, ctx)


class LlamaForCausalLM(CausalDecoder, LlamaModel): ...


class LlamaForSequenceClassification(SequenceClassifier, LlamaModel): ...
