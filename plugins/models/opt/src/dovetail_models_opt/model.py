"""OPT: blocks of attention and an MLP, with biases, layer norms and learned positions (Zhang et al., 2022).

One model (350M) has its norms after the sums with the residual, and embeddings of fewer channels than its layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn import (
    MLP,
    CausalLM,
    Context,
    LayerNorm,
    PoolingModel,
    PreNormBlock,
    RMSNorm,
    Rope,
    SelfAttention,
    Step,
)
from dovetail_models_opt.config import OPTConfig

OFFSET = 2
"""Rows of the table of positions that no position has."""
EPS = 1e-5
PREFIX = "model.decoder"
Norm = LayerNorm | RMSNorm


class SumNormBlock(nn.Module):
    """``norm(x + attention(x))``, then ``norm(x + mlp(x))``: ``[T, C]`` → ``[T, C]``, and no residual."""

    def __init__(self, attention: nn.Module, attention_norm: Norm, mlp: nn.Module, mlp_norm: Norm) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = attention_norm
        self.mlp = mlp
        self.mlp_norm = mlp_norm

    def forward(self, x: Tensor, residual: Tensor | None, rope: Rope | None, step: Step) -> tuple[Tensor, None]:
        x, _ = self.attention_norm.add(self.attention(x, rope, step), x)
        return self.mlp_norm.add(self.mlp(x), x)[0], None


def make_norm(c: OPTConfig, ctx: Context, name: str) -> Norm:
    if not c.layer_norm_elementwise_affine:
        return LayerNorm(ctx.ops, EPS)
    return ctx.norm(name, c.hidden_size, EPS, kind="layer", bias=True)


def make_block(c: OPTConfig, ctx: Context, name: str) -> PreNormBlock | SumNormBlock:
    attention = SelfAttention(
        ctx,
        f"{name}.self_attn",
        channels=c.hidden_size,
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_attention_heads,
        head_dim=c.head_dim,
        bias=c.enable_bias,
        out_bias=c.enable_bias,
        names=("q_proj", "k_proj", "v_proj", "out_proj"),
    )
    mlp = MLP(
        ctx, name, c.hidden_size, c.intermediate_size, activation=c.hidden_act, bias=c.enable_bias, names=("fc1", "fc2")
    )
    first, second = make_norm(c, ctx, f"{name}.self_attn_layer_norm"), make_norm(c, ctx, f"{name}.final_layer_norm")
    if c.do_layer_norm_before:
        return PreNormBlock(first, attention, second, mlp)
    return SumNormBlock(attention, first, mlp, second)


class OPTModel(PoolingModel):
    def __init__(self, c: OPTConfig, ctx: Context) -> None:
        super().__init__()
        channels, outer = c.hidden_size, c.word_embed_proj_dim
        self.embedding = ctx.embedding(f"{PREFIX}.embed_tokens", c.vocab_size, outer)
        rows = c.max_position_embeddings + OFFSET
        self.positions = ctx.embedding(f"{PREFIX}.embed_positions", rows, channels, cut=False)
        self.project_in = ctx.linear(f"{PREFIX}.project_in", outer, channels) if c.projects else None
        self.blocks = nn.ModuleList(
            make_block(c, ctx, f"{PREFIX}.layers.{layer}") for layer in range(c.num_hidden_layers)
        )
        self.norm = make_norm(c, ctx, f"{PREFIX}.final_layer_norm") if c.ends_with_norm else None
        self.project_out = ctx.linear(f"{PREFIX}.project_out", channels, outer) if c.projects else None
        self.make_head(c, ctx)

    def make_head(self, c: OPTConfig, ctx: Context) -> None:
        """Make what reads the result: nothing here, and a head that the checkpoint has is left out."""
        ctx.ignore("lm_head.weight")

    def rename(self, name: str) -> str | None:
        return f"model.{name}" if name.startswith("decoder.") else name

    def forward(self, step: Step) -> Tensor:
        """Hidden states ``[T, word_embed_proj_dim]``."""
        x: Tensor = self.embedding(step.tokens)
        x = x if self.project_in is None else self.project_in(x)
        x = x + self.positions(step.positions + OFFSET)
        residual: Tensor | None = None
        for block in self.blocks:
            x, residual = block(x, residual, None, step)
        x = x if residual is None else x + residual
        x = x if self.norm is None else self.norm(x)
        return x if self.project_out is None else self.project_out(x)


class OPTForCausalLM(OPTModel, CausalLM):
    def make_head(self, c: OPTConfig, ctx: Context) -> None:
        tied = self.embedding if c.tie_word_embeddings else None
        self.head = ctx.head("lm_head", c.word_embed_proj_dim, c.vocab_size, tied=tied)


class OPTForSequenceClassification(OPTModel):
    def make_head(self, c: OPTConfig, ctx: Context) -> None:
        super().make_head(c, ctx)
        self.score = ctx.linear("score", c.word_embed_proj_dim, c.num_labels)

    def pooled_logits(self, pooled: Tensor) -> Tensor:
        out: Tensor = self.score(pooled)
        return out
