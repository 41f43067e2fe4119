"""Mixtral: Mistral's block with a mixture of experts in place of the MLP (Jiang et al., 2024)."""

from __future__ import annotations

from functools import partial

from dovetail.nn import CausalDecoder, Context, Mixture, PreNormBlock, SelfAttention
from dovetail_models_mixtral.config import MixtralConfig


def make_block(c: MixtralConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
    )
    mixture = Mixture(
        ctx,
        f"{name}.block_sparse_moe",
        c.hidden_size,
        c.intermediate_size,
        experts=c.num_local_experts,
        top_k=c.num_experts_per_tok,
        activation=c.hidden_act,
        names=("w1", "w3", "w2"),
    )
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        mixture,
    )


class MixtralForCausalLM(CausalDecoder):
    def __init__(self, c: MixtralConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))

    def rename(self, name: str) -> str | None:
        """``mlp`` is what transformers calls the mixture since its version 5."""
        return super().rename(name.replace(".mlp.", ".block_sparse_moe."))
