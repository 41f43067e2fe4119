"""GPT-NeoX: attention and an MLP that read norms of the same input, with biases, layer norms and rotary embeddings on a
part of each head (Black et al., 2022).
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
from dovetail_models_gpt_neox.config import GPTNeoXConfig


def make_block(c: GPTNeoXConfig, ctx: Context, name: str, layer: int) -> PreNormBlock | ParallelBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attention",
        layer,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        names=("query_key_value", "dense"),
        grouped=True,
    )
    names = ("dense_h_to_4h", "dense_4h_to_h")
    mlp = MLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=names)
    first, second = norm(f"{name}.input_layernorm"), norm(f"{name}.post_attention_layernorm")
    if c.use_parallel_residual:
        return ParallelBlock(first, attention, mlp, second)
    return PreNormBlock(first, attention, second, mlp)


class GPTNeoXModel(Decoder):
    names = DecoderNames("gpt_neox", "embed_in", "layers", "final_layer_norm", "embed_out")

    def __init__(self, c: GPTNeoXConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class GPTNeoXForCausalLM(CausalDecoder, GPTNeoXModel): ...


class GPTNeoXForSequenceClassification(SequenceClassifier, GPTNeoXModel): ...
