"""InternLM2: Llama's block, with the rows of queries, keys and values stored by key-value head (Cai et al., 2024)."""

from __future__ import annotations

from functools import partial

from dovetail.nn import (
    CausalDecoder,
    Context,
    Decoder,
    DecoderNames,
    GatedMLP,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_internlm2.config import InternLM2Config


def make_block(c: InternLM2Config, ctx: Context, name: str, layer: int) -> PreNormBlock:
    together = c.projections == "wqkv"
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attention",
        layer,
        bias=c.bias,
        out_bias=c.bias,
        names=("wqkv", "wo") if together else ("wq", "wk", "wv", "wo"),
        grouped=together,
    )
    names = ("w1", "w3", "w2")
    return PreNormBlock(
        ctx.norm(f"{name}.attention_norm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.ffn_norm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.feed_forward", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=names),
    )


class InternLM2Model(Decoder):
    names = DecoderNames(embedding="tok_embeddings", head="output")

    def __init__(self, c: InternLM2Config, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class InternLM2ForCausalLM(CausalDecoder, InternLM2Model): ...


class InternLM2ForSequenceClassification(SequenceClassifier, InternLM2Model): ...
