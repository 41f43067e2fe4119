"""Phi: blocks whose attention and MLP read the same norm, with biases everywhere and rotary embeddings on a part of
each head (Gunasekar et al., 2023; Li et al., 2023).

Phi-3 has Llama's block with projections that are stored together (Abdin et al., 2024). Phi-3.5-MoE has experts, layer
norms, and a router of its own (Liu et al., 2024).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dovetail.nn import (
    MLP,
    CausalDecoder,
    Context,
    Decoder,
    DecoderNames,
    GatedMLP,
    Mixture,
    ParallelBlock,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_phi.config import Phi3Config, PhiConfig, PhimoeConfig


def make_phi_block(c: PhiConfig, ctx: Context, name: str, layer: int) -> ParallelBlock:
    norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=True,
        out_bias=True,
        names=("q_proj", "k_proj", "v_proj", "dense"),
        qk_norm=norm if c.qk_layernorm else None,
        norm_names=("q_layernorm", "k_layernorm"),
    )
    mlp = MLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=("fc1", "fc2"))
    return ParallelBlock(norm(f"{name}.input_layernorm", c.hidden_size), attention, mlp)


class PhiModel(Decoder):
    names = DecoderNames(norm="final_layernorm")

    def __init__(self, c: PhiConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_phi_block, c, ctx), norm, head_bias=True)


class PhiForCausalLM(CausalDecoder, PhiModel): ...


class PhiForSequenceClassification(SequenceClassifier, PhiModel): ...


def make_phi3_block(c: Phi3Config, ctx: Context, name: str, layer: int) -> PreNormBlock:
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        names=("qkv_proj", "o_proj"),
    )
    names = ("gate_up_proj", "down_proj")
    return PreNormBlock(
        ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps),
        attention,
        ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=names),
    )


class Phi3Model(Decoder):
    def __init__(self, c: Phi3Config, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_phi3_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))
        self.expect_rope_factors(c, ctx)


class Phi3ForCausalLM(CausalDecoder, Phi3Model): ...


class Phi3ForSequenceClassification(SequenceClassifier, Phi3Model): ...


def sparsemixer_weights(logits: Tensor, ids: Tensor, jitter: float) -> Tensor:
    """The weights of two experts (Liu et al., 2024, without the noise of training). Each is the largest of those that
    were left to choose from, and its weight its softmax over them, without those that are too far below it.

    Args:
        logits: ``[T, E]``, of the router.
        ids: ``[T, 2]``, the first of the largest logit.
        jitter: half the relative distance that is too far.

    Returns:
        float32 ``[T, 2]``.
    """
    wide = logits.float()
    left, weights = wide, []
    for chosen in ids.split(1, -1):
        best = wide.gather(-1, chosen)  # [T, 1]
        far = (best - wide) / torch.maximum(wide.abs(), best) > 2 * jitter
        weights.append(left.masked_fill(far, float("-inf")).softmax(-1).gather(-1, chosen))
        left = left.scatter(-1, chosen, float("-inf"))
    return torch.cat(weights, -1)


def make_phimoe_block(c: PhimoeConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.rms_norm_eps, kind="layer", bias=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
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
        weigh=partial(sparsemixer_weights, jitter=c.router_jitter_noise),
    )
    return PreNormBlock(norm(f"{name}.input_layernorm"), attention, norm(f"{name}.post_attention_layernorm"), mixture)


class PhimoeModel(Decoder):
    def __init__(self, c: PhimoeConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.rms_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_phimoe_block, c, ctx), norm, head_bias=c.lm_head_bias)
        self.expect_rope_factors(c, ctx)

    def rename(self, name: str) -> str | None:
        """``mlp`` and ``router`` are what transformers calls the mixture and its router in memory since its version 5."""
        name = name.replace(".mlp.router.", ".block_sparse_moe.gate.").replace(".mlp.", ".block_sparse_moe.")
        return super().rename(name)


class PhimoeForCausalLM(CausalDecoder, PhimoeModel): ...


class PhimoeForSequenceClassification(SequenceClassifier, PhimoeModel): ...
