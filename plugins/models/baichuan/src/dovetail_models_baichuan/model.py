"""Baichuan: Llama's block with rotary embeddings, or with ALiBi in the models of 13B; Baichuan 2 has a head whose rows are
normalized (Yang et al., 2023, arXiv:2309.10305).
"""

from __future__ import annotations

from functools import partial

from dovetail.api import ModelConfig
from dovetail.nn import Bias, CausalDecoder, Context, GatedMLP, PreNormBlock, SelfAttention
from dovetail_models_baichuan.config import BaichuanConfig


def make_block(c: BaichuanConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        names=("W_pack", "o_proj") if c.projections == "W_pack" else ("q_proj", "k_proj", "v_proj", "o_proj"),
    )
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act),
    )


class BaichuanForCausalLM(CausalDecoder):
    def __init__(self, c: BaichuanConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))

    def make_head(self, c: ModelConfig, ctx: Context, *, bias: Bias, softcap: float | None) -> None:
        assert isinstance(c, BaichuanConfig)
        tied = self.embedding if c.tie_word_embeddings else None
        name = self.names.head
        self.head = ctx.head(name, c.hidden_size, c.vocab_size, tied=tied, normalized=c.normalized_head)
