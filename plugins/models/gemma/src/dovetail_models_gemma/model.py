"""Gemma: blocks as Llama's, with norms of the form ``1 + w`` that are computed in float32, a gate with GELU, and
embeddings that are multiplied by the root of their size (Gemma team, 2024 and 2025).

Gemma 2 adds norms after attention and MLP, soft caps on scores and logits, and a sliding window in every second layer.
Gemma 3 has norms of queries and keys in place of the caps, and a window in five of six layers, with angles of its own.
"""

from __future__ import annotations

from functools import partial

import torch

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, PreNormBlock, SelfAttention, SequenceClassifier
from dovetail_models_gemma.config import Gemma2Config, Gemma3Config, GemmaConfig


def make_block(c: GemmaConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    second = isinstance(c, Gemma2Config)
    norm = partial(ctx.norm, eps=c.rms_norm_eps, offset=c.norm_offset, wide=True)
    make = partial(norm, channels=c.hidden_size)
    attention = SelfAttention.from_config(
        c,
        ctx,
        f"{name}.self_attn",
        layer,
        softcap=c.attn_logit_softcapping if isinstance(c, Gemma2Config) else None,
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        scale=c.scale,
        qk_norm=norm if isinstance(c, Gemma3Config) else None,
    )
    return PreNormBlock(
        make(f"{name}.input_layernorm"),
        attention,
        make(f"{name}.pre_feedforward_layernorm" if second else f"{name}.post_attention_layernorm"),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act),
        attended_norm=make(f"{name}.post_attention_layernorm") if second else None,
        out_norm=make(f"{name}.post_feedforward_layernorm") if second else None,
    )


class GemmaModel(Decoder):
    def __init__(self, c: GemmaConfig, ctx: Context) -> None:
        super().__init__(
            c,
            ctx,
            partial(make_block, c, ctx),
            partial(ctx.norm, eps=c.rms_norm_eps, offset=c.norm_offset, wide=True),
            softcap=c.final_logit_softcapping if isinstance(c, Gemma2Config) else None,
            # Rounded, as it was in training.
            embedding_multiplier=float(torch.tensor(c.hidden_size**0.5, dtype=ctx.dtype)),
        )


class GemmaForCausalLM(CausalDecoder, GemmaModel): ...


class Gemma3ForConditionalGeneration(GemmaForCausalLM):
    """The language model of a checkpoint that also has one of images, for text alone."""

    def rename(self, name: str) -> str | None:
        if name.startswith(
            ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
        ):
            return None
        for prefix in ("language_model.model.", "model.language_model."):
            if name.startswith(prefix):
                return f"model.{name.removeprefix(prefix)}"
        return super().rename(name.removeprefix("language_model."))


class GemmaForSequenceClassification(SequenceClassifier, GemmaModel): ...
