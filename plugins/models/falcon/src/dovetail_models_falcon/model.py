"""Falcon: attention and an MLP that are added to the same input, with layer norms, and few key-value heads (Almazrouei et
al., 2023); in Falcon-RW one after the other, with ALiBi (Penedo et al., 2023).
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import (
    MLP,
    CausalDecoder,
    Context,
    Decoder,
    DecoderNames,
    ParallelBlock,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_falcon.config import FalconConfig


def make_block(c: FalconConfig, ctx: Context, name: str, layer: int) -> PreNormBlock | ParallelBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_epsilon, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attention",
        layer,
        bias=c.bias,
        out_bias=c.bias,
        names=("query_key_value", "dense"),
        grouped=True,
    )
    mlp = MLP(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        bias=c.bias,
        names=("dense_h_to_4h", "dense_4h_to_h"),
    )
    if not c.parallel_attn:
        first, second = norm(f"{name}.input_layernorm"), norm(f"{name}.post_attention_layernorm")
        return PreNormBlock(first, attention, second, mlp)
    if c.num_ln_in_parallel_attn == 2:
        return ParallelBlock(norm(f"{name}.ln_attn"), attention, mlp, norm(f"{name}.{c.mlp_norm}"))
    return ParallelBlock(norm(f"{name}.input_layernorm"), attention, mlp)


class FalconModel(Decoder):
    names = DecoderNames("transformer", "word_embeddings", "h", "ln_f")

    def __init__(self, c: FalconConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_epsilon, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class FalconForCausalLM(CausalDecoder, FalconModel): ...


class FalconForSequenceClassification(SequenceClassifier, FalconModel): ...
