"""gpt-oss: pre-norm blocks of attention with sinks and a mixture of experts, with biases everywhere (OpenAI, 2025).

Each head's softmax has one more score, which is learned and has no value (Xiao et al., 2023).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dovetail.nn import CausalDecoder, Context, Decoder, Mixture, PreNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_gpt_oss.config import GptOssConfig


def clamped_swiglu(x: Tensor, limit: float, alpha: float) -> Tensor:
    """``(up + 1) * gate * sigmoid(alpha * gate)``, of a gate of at most ``limit``, and of an ``up`` between
    ``-limit`` and ``limit``.

    Args:
        x: gate and up side by side, ``[..., 2 * I]``.

    Returns:
        ``[..., I]`` in x's dtype.
    """
    gate, up = x.chunk(2, -1)
    gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * gate * torch.sigmoid(alpha * gate)


def make_block(c: GptOssConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.rms_norm_eps, wide=True)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        sinks="sinks",
        bias=c.attention_bias,
        out_bias=c.attention_bias,
    )
    activation = ctx.op("gpt_oss.clamped_swiglu", clamped_swiglu)
    mixture = Mixture(
        ctx,
        f"{name}.mlp",
        c.hidden_size,
        c.intermediate_size,
        experts=c.num_local_experts,
        top_k=c.num_experts_per_tok,
        activation=partial(activation, limit=c.swiglu_limit, alpha=c.swiglu_alpha),
        bias=True,
        router="router",
        router_bias=True,
        alternating=True,
        transposed=True,
    )
    return PreNormBlock(norm(f"{name}.input_layernorm"), attention, norm(f"{name}.post_attention_layernorm"), mixture)


class GptOssModel(Decoder):
    def __init__(self, c: GptOssConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps, wide=True))


class GptOssForCausalLM(CausalDecoder, GptOssModel): ...


class GptOssForSequenceClassification(SequenceClassifier, GptOssModel): ...
