"""Command R and its relatives: blocks whose attention and MLP read the same layer norm (Cohere, 2024).

The second generation has a sliding window with rotary embeddings in three of four layers, and no positions in the
others (Yang et al., 2025).
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, HeadNorms, ParallelBlock, SelfAttention
from dovetail_models_cohere.config import CohereConfig


def make_block(c: CohereConfig, ctx: Context, name: str, layer: int) -> ParallelBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        interleaved=True,
        qk_norm=partial(HeadNorms, ctx, head_dim=c.head_dim, eps=c.layer_norm_eps) if c.use_qk_norm else None,
        norm_by="whole",
    )
    norm = ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.layer_norm_eps, kind="layer")
    mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act)
    return ParallelBlock(norm, attention, mlp)


class CohereModel(Decoder):
    def __init__(self, c: CohereConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer")
        super().__init__(c, ctx, partial(make_block, c, ctx), norm, logits_multiplier=c.logit_scale)


class CohereForCausalLM(CausalDecoder, CohereModel): ...
