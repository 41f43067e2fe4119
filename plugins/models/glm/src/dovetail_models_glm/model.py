"""GLM-4 and GLM-4.5 (GLM Team, 2024, arXiv:2406.12793; 2025, arXiv:2508.06471): rotary embeddings on a part of each
head. GLM-4-0414 has norms after attention and MLP, too; GLM-4.5 has experts that a router chooses beside shared ones.
"""

from __future__ import annotations

from functools import partial

from dovetail.nn import (
    CausalDecoder,
    Context,
    Decoder,
    GatedMLP,
    Mixture,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_glm.config import GlmConfig, GlmMoeConfig


def make_block(c: GlmConfig, ctx: Context, name: str, layer: int, *, post_norms: bool = False) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.rms_norm_eps)
    names = ("gate_up_proj", "down_proj")
    mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=names)
    return PreNormBlock(
        norm(f"{name}.input_layernorm"),
        SelfAttention.from_config(c, ctx, f"{name}.self_attn", layer, bias=c.attention_bias, interleaved=True),
        norm(f"{name}.post_attention_layernorm"),
        mlp,
        attended_norm=norm(f"{name}.post_self_attn_layernorm") if post_norms else None,
        out_norm=norm(f"{name}.post_mlp_layernorm") if post_norms else None,
    )


def make_mixture(c: GlmMoeConfig, ctx: Context, name: str) -> Mixture:
    shared = None
    if inner := c.n_shared_experts * c.moe_intermediate_size:
        shared = GatedMLP(ctx, f"{name}.shared_experts", c.hidden_size, inner, activation=c.hidden_act)
    return Mixture(
        ctx,
        name,
        c.hidden_size,
        c.moe_intermediate_size,
        experts=c.n_routed_experts,
        top_k=c.num_experts_per_tok,
        activation=c.hidden_act,
        wide=True,
        scoring="sigmoid",
        correction="gate.e_score_correction_bias",
        renormalize=c.norm_topk_prob,
        groups=c.n_group,
        top_groups=c.topk_group,
        scale=c.routed_scaling_factor,
        shared=shared,
    )


def make_moe_block(c: GlmMoeConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, eps=c.rms_norm_eps)
    if layer < c.first_k_dense_replace:
        mlp: GatedMLP | Mixture = GatedMLP(
            ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act
        )
    else:
        mlp = make_mixture(c, ctx, f"{name}.mlp")
    return PreNormBlock(
        norm(f"{name}.input_layernorm", c.hidden_size),
        SelfAttention.from_config(
            c, ctx, f"{name}.self_attn", layer, bias=c.attention_bias, qk_norm=norm if c.use_qk_norm else None
        ),
        norm(f"{name}.post_attention_layernorm", c.hidden_size),
        mlp,
    )


class GlmModel(Decoder):
    def __init__(self, c: GlmConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class GlmForCausalLM(CausalDecoder, GlmModel): ...


class GlmForSequenceClassification(SequenceClassifier, GlmModel): ...


class Glm4Model(Decoder):
    def __init__(self, c: GlmConfig, ctx: Context) -> None:
        block = partial(make_block, c, ctx, post_norms=True)
        super().__init__(c, ctx, block, partial(ctx.norm, eps=c.rms_norm_eps))


class Glm4ForCausalLM(CausalDecoder, Glm4Model): ...


class Glm4ForSequenceClassification(SequenceClassifier, Glm4Model): ...


class Glm4MoeModel(Decoder):
    further_layers = True

    def __init__(self, c: GlmMoeConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_moe_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class Glm4MoeForCausalLM(CausalDecoder, Glm4MoeModel): ...
