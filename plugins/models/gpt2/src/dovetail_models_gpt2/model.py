"""GPT-2: pre-norm blocks of attention and an MLP, with biases, layer norms and learned positions (Radford et al.,
2019).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor

from dovetail.nn import MLP, CausalDecoder, Context, DecoderNames, PreNormBlock, SelfAttention, Step
from dovetail_models_gpt2.config import GPT2Config


def make_block(c: GPT2Config, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, eps=c.layer_norm_epsilon, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.attn",
        layer,
        num_kv_heads=c.num_attention_heads,
        bias=True,
        out_bias=True,
        scale=c.scale(layer),
        names=("c_attn", "c_proj"),
        transposed=True,
    )
    mlp = MLP(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        activation=c.hidden_act,
        names=("c_fc", "c_proj"),
        transposed=True,
    )
    return PreNormBlock(norm(f"{name}.ln_1", c.hidden_size), attention, norm(f"{name}.ln_2", c.hidden_size), mlp)


class GPT2LMHeadModel(CausalDecoder):
    names = DecoderNames("transformer", "wte", "h", "ln_f", others=("wpe",))

    def __init__(self, c: GPT2Config, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_epsilon, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)
        self.positions = ctx.embedding("transformer.wpe", c.max_position_embeddings, c.hidden_size, cut=False)

    def embed(self, step: Step) -> Tensor:
        return super().embed(step) + self.positions(step.positions)
