"""Phi: blocks whose attention and MLP read the same norm, with biases everywhere and rotary embeddings on a part of
each head (Gunasekar et al., 2023; Li et al., 2023).
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import MLP, CausalDecoder, Context, DecoderNames, ParallelBlock, SelfAttention
from dovetail_models_phi.config import PhiConfig


def make_block(c: PhiConfig, ctx: Context, name: str, layer: int) -> ParallelBlock:
    norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention(
        ctx,
        f"{name}.self_attn",
        channels=c.hidden_size,
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        bias=True,
        out_bias=True,
        names=("q_proj", "k_proj", "v_proj", "dense"),
        qk_norm=norm if c.qk_layernorm else None,
        norm_names=("q_layernorm", "k_layernorm"),
    )
    mlp = MLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=("fc1", "fc2"))
    return ParallelBlock(norm(f"{name}.input_layernorm", c.hidden_size), attention, mlp)


class PhiForCausalLM(CausalDecoder):
    names = DecoderNames(norm="final_layernorm")

    def __init__(self, c: PhiConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm, head_bias=True)
