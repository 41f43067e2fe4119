"""StarCoder2: grouped-query attention with a window and an MLP, with biases and layer norms (Lozhkov et al., 2024)."""

from __future__ import annotations

from functools import partial

from dovetail.nn import MLP, CausalDecoder, Context, Decoder, PreNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_starcoder2.config import Starcoder2Config


def make_block(c: Starcoder2Config, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.norm_epsilon, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.use_bias,
        out_bias=c.use_bias,
    )
    mlp = MLP(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        bias=c.use_bias,
        names=("c_fc", "c_proj"),
    )
    return PreNormBlock(norm(f"{name}.input_layernorm"), attention, norm(f"{name}.post_attention_layernorm"), mlp)


class Starcoder2Model(Decoder):
    def __init__(self, c: Starcoder2Config, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.norm_epsilon, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class Starcoder2ForCausalLM(CausalDecoder, Starcoder2Model): ...


class Starcoder2ForSequenceClassification(SequenceClassifier, Starcoder2Model): ...
