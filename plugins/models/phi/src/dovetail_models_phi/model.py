"""Phi: blocks whose attention and MLP read the same norm, with biases everywhere and rotary embeddings on a part of
each head (Gunasekar et al., 2023; Li et al., 2023).
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from dovetail.nn import MLP, CausalLM, Context, Rope, Rotary, SelfAttention, Step
from dovetail_models_phi.config import PhiConfig


class PhiBlock(nn.Module):
    """One layer: ``[T, C]`` → ``[T, C]``, with the residual as a separate tensor."""

    def __init__(self, c: PhiConfig, ctx: Context, layer: int) -> None:
        super().__init__()
        name = f"model.layers.{layer}"
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        self.norm = norm(f"{name}.input_layernorm", c.hidden_size)
        self.attention = SelfAttention(
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
        self.mlp = MLP(
            ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, names=("fc1", "fc2")
        )

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope, step: Step) -> tuple[Tensor, Tensor]:
        if residual is None:
            x, residual = self.norm(x), x
        else:
            x, residual = self.norm.add(x, residual)
        return self.attention(x, rope, step) + self.mlp(x), residual


class PhiForCausalLM(CausalLM):
    def __init__(self, c: PhiConfig, ctx: Context) -> None:
        super().__init__()
        self.embedding = ctx.embedding("model.embed_tokens", c.vocab_size, c.hidden_size)
        self.rotary = Rotary(
            c.rotary_dim(0), c.rope_for(0), max_position=c.max_position_embeddings, max_tokens=ctx.max_tokens
        )
        self.blocks = nn.ModuleList(PhiBlock(c, ctx, layer) for layer in range(c.num_hidden_layers))
        self.norm = ctx.norm("model.final_layernorm", c.hidden_size, c.layer_norm_eps, kind="layer", bias=True)
        self.head = ctx.head(
            "lm_head", c.hidden_size, c.vocab_size, tied=self.embedding if c.tie_word_embeddings else None, bias=True
        )

    def forward(self, step: Step) -> Tensor:
        x = self.embedding(step.tokens)
        rope = self.rotary(step.positions, x.dtype)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, rope, step)
        assert residual is not None
        return self.norm.add(x, residual)[0]
