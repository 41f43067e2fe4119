"""Llama: pre-norm blocks of rotary grouped-query attention and a gated MLP (Touvron et al., 2023).

Mistral adds a sliding window, Granite four scalar multipliers; everything else is configuration.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.nn import CausalLM, Context, GatedMLP, Rope, Rotary, SelfAttention, Step
from dovetail_models_llama.config import LlamaConfig


class LlamaBlock(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``, with the residual as a separate tensor."""

    def __init__(self, c: LlamaConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"model.layers.{layer}"
        self.input_norm = ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.rms_norm_eps)
        self.attention = SelfAttention(
            ctx,
            f"{name}.self_attn",
            channels=c.hidden_size,
            num_heads=c.num_attention_heads,
            num_kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            window=c.window(layer),
            bias=c.attention_bias,
            out_bias=c.attention_bias,
            scale=c.attention_multiplier,
        )
        self.mlp_norm = ctx.norm(f"{name}.post_attention_layernorm", c.hidden_size, c.rms_norm_eps)
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.multiplier = c.residual_multiplier

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope, step: Step) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm.add(x, residual)
        x = self._scale(self.attention(x, rope, step))
        x, residual = self.mlp_norm.add(x, residual)
        return self._scale(self.mlp(x)), residual

    def _scale(self, x: Tensor) -> Tensor:
        return x if self.multiplier == 1.0 else x * self.multiplier


class LlamaForCausalLM(CausalLM):
    def __init__(self, c: LlamaConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("model.embed_tokens", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(
            c.rotary_dim(0), c.rope_for(0), max_position=c.max_position_embeddings, max_tokens=ctx.max_tokens
        )
        self._expect_rope_factors(c, ctx)
        self.blocks = nn.ModuleList(LlamaBlock(c, ctx, i) for i in range(c.num_hidden_layers))
        self.norm = ctx.norm("model.norm", c.hidden_size, c.rms_norm_eps)
        self.head = ctx.head(
            "lm_head", c.hidden_size, c.vocab_size, tied=self.embedding if c.tie_word_embeddings else None
        )
        self.embedding_multiplier = c.embedding_multiplier
        self.logits_scaling = c.logits_scaling

    def _expect_rope_factors(self, c: LlamaConfig, ctx: Context) -> None:
        """Require the tensors in which GGUF files store Llama 3.1's frequency scaling and the two lists of
        ``longrope``.
        """
        shape, rope = (c.head_dim // 2,), c.rope_for(0)
        ctx.vector("rope_freqs.weight", shape, self.rotary.divide_frequencies, required=False, dtype=torch.float32)
        if rope.rope_type == "longrope" and rope.long_factor is None:
            original = rope.original_max_position_embeddings or c.max_position_embeddings
            used, other = ("long", "short") if ctx.max_tokens > original else ("short", "long")
            ctx.vector(f"rope_factors_{used}.weight", shape, self.rotary.divide_frequencies, dtype=torch.float32)
            ctx.ignore(f"rope_factors_{other}.weight")

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        if self.embedding_multiplier != 1.0:
            x = x * self.embedding_multiplier
        rope = self.rotary(step.positions, x.dtype)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, rope, step)
        assert residual is not None
        return self.norm.add(x, residual)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        logits = super().logits(hidden)
        return logits if self.logits_scaling == 1.0 else logits / self.logits_scaling
