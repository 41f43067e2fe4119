"""A pre-norm decoder: rotary grouped-query attention and a gated MLP.

Every factory of the context takes the name that the tensor has in the checkpoint, so the layers are the table of names.
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import CausalDecoder, Context, GatedMLP, PreNormBlock, SelfAttention

from PLUGIN_MODULE.config import PLUGIN_CLASSConfig


def make_block(c: PLUGIN_CLASSConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    """One layer; ``name`` is its checkpoint prefix, such as ``model.layers.0``."""
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
    )
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size),
    )


class PLUGIN_CLASSForCausalLM(CausalDecoder):
    """The whole decoder; loading, quantization, batching and sampling are the engine's."""

    def __init__(self, c: PLUGIN_CLASSConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))
