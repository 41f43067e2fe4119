"""Gemma: blocks as Llama's, with norms of the form ``1 + w`` that are computed in float32, a gate with GELU, and
embeddings that are multiplied by the root of their size (Gemma team, 2024).

Gemma 2 adds norms after attention and MLP, soft caps on scores and logits, and a sliding window in every second layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.nn import CausalLM, Context, GatedMLP, LayerNorm, RMSNorm, Rope, Rotary, SelfAttention, Step
from dovetail_models_gemma.config import Gemma2Config, GemmaConfig


class GemmaBlock(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``, with the residual as a separate tensor."""

    def __init__(self, c: GemmaConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"model.layers.{layer}"

        def norm(part: str) -> RMSNorm | LayerNorm:
            return ctx.norm(f"{name}.{part}", c.hidden_size, c.rms_norm_eps, offset=c.norm_offset, wide=True)

        second = isinstance(c, Gemma2Config)
        self.input_norm = norm("input_layernorm")
        self.attention = SelfAttention(
            ctx,
            f"{name}.self_attn",
            channels=c.hidden_size,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            window=c.window(layer),
            softcap=c.attn_logit_softcapping if isinstance(c, Gemma2Config) else None,
            bias=c.attention_bias,
            out_bias=c.attention_bias,
            scale=c.scale,
        )
        self.attended_norm = norm("post_attention_layernorm") if second else nn.Identity()
        self.mlp_norm = norm("pre_feedforward_layernorm" if second else "post_attention_layernorm")
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation="gelu_tanh")
        self.out_norm = norm("post_feedforward_layernorm") if second else nn.Identity()

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope, step: Step) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self.attended_norm(self.attention(x, rope, step))
        x, residual = self.mlp_norm.add(x, residual)
        return self.out_norm(self.mlp(x)), residual


class GemmaForCausalLM(CausalLM):
    def __init__(self, c: GemmaConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("model.embed_tokens", c.vocab_size, c.hidden_size)
        self.scale = float(torch.tensor(c.hidden_size**0.5, dtype=ctx.dtype))  # rounded, as it was in training
        self.rotary = Rotary(
            c.rotary_dim(0), c.rope_for(0), max_position=c.max_position_embeddings, max_tokens=ctx.max_tokens
        )
        self.blocks = nn.ModuleList(GemmaBlock(c, ctx, layer) for layer in range(c.num_hidden_layers))
        self.norm = ctx.norm("model.norm", c.hidden_size, c.rms_norm_eps, offset=c.norm_offset, wide=True)
        self.head = ctx.head(
            "lm_head",
            c.hidden_size,
            c.vocab_size,
            tied=self.embedding if c.tie_word_embeddings else None,
            softcap=c.final_logit_softcapping if isinstance(c, Gemma2Config) else None,
        )

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens) * self.scale
        rope = self.rotary(step.positions, x.dtype)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, rope, step)
        assert residual is not None
        return self.norm.add(x, residual)[0]
