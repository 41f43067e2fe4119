"""MPT: pre-norm blocks with layer norms and without biases, and ALiBi in place of positions (MosaicML, 2023)."""

from __future__ import annotations

from functools import partial

from dovetail.nn import (
    MLP,
    CausalDecoder,
    Context,
    Decoder,
    DecoderNames,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_mpt.config import MptConfig


def make_block(c: MptConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_epsilon, kind="layer")
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attn",
        layer,
        scale=c.softmax_scale,
        clip=c.clip_qkv,
        names=("Wqkv", "out_proj"),
    )
    mlp = MLP(ctx, f"{name}.ffn", c.hidden_size, c.intermediate_size, activation=c.hidden_act, bias=False)
    return PreNormBlock(norm(f"{name}.norm_1"), attention, norm(f"{name}.norm_2"), mlp)


class MptModel(Decoder):
    names = DecoderNames("transformer", "wte", "blocks", "norm_f")

    def __init__(self, c: MptConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_epsilon, kind="layer")
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class MptForCausalLM(CausalDecoder, MptModel): ...


class MptForSequenceClassification(SequenceClassifier, MptModel): ...
