"""DeepSeek-V2 and V3: multi-head latent attention, and experts that a router chooses beside shared ones (DeepSeek-AI,
2024, arXiv:2405.04434 and arXiv:2412.19437).

The cache holds one latent row for each token, which serves all heads. Its projection to keys is absorbed into the
queries, and that to values into what attention gives.

Letters: T tokens, H heads of this rank, C channels, R channels of a latent, N and P channels of a query without and with
a position, V channels of a value.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dovetail.nn import (
    AttentionSpec,
    CausalDecoder,
    ColumnCut,
    Context,
    Decoder,
    GatedMLP,
    Mixture,
    PreNormBlock,
    Rope,
    RowCut,
    SequenceClassifier,
    Step,
)
from dovetail_models_deepseek.config import LatentConfig

LATENT_EPS = 1e-6
"""Of the norms of latents, whatever ``rms_norm_eps`` is."""


class LatentAttention(nn.Module):
    """Attention over latent rows: ``[T, C]`` → ``[T, C]``. Cut by heads; every rank has all of the rows."""

    def __init__(self, c: LatentConfig, ctx: Context, name: str) -> None:
        super().__init__()
        self.rank, self.sizes = c.q_lora_rank, (c.kv_lora_rank, c.qk_rope_head_dim)
        self.head_sizes = (c.qk_nope_head_dim, c.qk_rope_head_dim)
        heads = ctx.parallel.heads(c.num_attention_heads, c.num_attention_heads)
        first, last = heads.q
        # The small products before the latents' norms read the same channels, and are computed as one.
        down = {f"{name}.q_a_proj": self.rank} if self.rank else {}
        self.down = ctx.linear(
            down | {f"{name}.kv_a_proj_with_mqa": sum(self.sizes)}, c.hidden_size, bias=c.attention_bias
        )
        query, per_head = f"{name}.{'q_b_proj' if self.rank else 'q_proj'}", sum(self.head_sizes)
        self.query = ctx.linear(
            query,
            self.rank or c.hidden_size,
            c.num_attention_heads * per_head,
            cut=RowCut({query: ((first * per_head, last * per_head),)}),
        )
        norm = partial(ctx.norm, eps=LATENT_EPS)
        self.query_norm = norm(f"{name}.q_a_layernorm", self.rank) if self.rank else None
        self.row_norm = norm(f"{name}.kv_a_layernorm", c.kv_lora_rank)
        self.apart = c.up_projections != "kv_b_proj"
        if self.apart:
            self.keys = ctx.head_stack(f"{name}.k_b_proj", c.kv_lora_rank, c.qk_nope_head_dim, heads)
            self.values = ctx.head_stack(f"{name}.v_b_proj", c.v_head_dim, c.kv_lora_rank, heads)
        else:
            self.up = ctx.head_sections(f"{name}.kv_b_proj", (c.qk_nope_head_dim, c.v_head_dim), c.kv_lora_rank, heads)
        self.out = ctx.linear(
            f"{name}.o_proj",
            c.num_attention_heads * c.v_head_dim,
            c.hidden_size,
            bias=c.attention_bias,
            cut=ColumnCut(((first * c.v_head_dim, last * c.v_head_dim),)),
        )
        spec = AttentionSpec(last - first, 1, sum(self.sizes), c.attention_scale, value_dim=c.kv_lora_rank, latent=True)
        self.attention = ctx.attention(spec, cut=heads)
        self.rope = partial(ctx.ops.rope, interleaved=c.rope_interleave)
        self.by_head = ctx.ops.linear_by_head

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        rank, latent, turned = self.down(x).split((self.rank, *self.sizes), -1)
        row = torch.cat(
            (self.row_norm(latent)[:, None], self.rope(turned[:, None], rope.cos, rope.sin)), -1
        )  # [T, 1, R + P]
        query = self.query(x if self.query_norm is None else self.query_norm(rank))
        plain, turned = query.unflatten(-1, (-1, sum(self.head_sizes))).split(
            self.head_sizes, -1
        )  # [T, H, N], [T, H, P]
        keys, values = self._absorbed()
        q = torch.cat((self.by_head(plain, keys), self.rope(turned, rope.cos, rope.sin)), -1)  # [T, H, R + P]
        attended = self.by_head(self.attention(q, row, None, step), values)  # [T, H, V]
        out: Tensor = self.out(attended.flatten(-2))
        return out

    def _absorbed(self) -> tuple[Tensor, Tensor]:
        """What turns queries into latent rows ``[H, R, N]``, and latent rows into values ``[H, V, R]``."""
        if self.apart:
            return self.keys.matrices, self.values.matrices
        keys, values = self.up.sections  # [H, N, R], [H, V, R]
        return keys.mT, values


def make_mixture(c: LatentConfig, ctx: Context, name: str) -> Mixture:
    shared = None
    if inner := c.n_shared_experts * c.moe_intermediate_size:
        shared = GatedMLP(ctx, f"{name}.shared_experts", c.hidden_size, inner, activation=c.hidden_act, bias=c.mlp_bias)
    groups, top_groups = c.groups
    return Mixture(
        ctx,
        name,
        c.hidden_size,
        c.moe_intermediate_size,
        experts=c.n_routed_experts,
        top_k=c.num_experts_per_tok,
        activation=c.hidden_act,
        wide=True,
        scoring=c.scoring_func,
        correction="gate.e_score_correction_bias" if c.has_correction else None,
        renormalize=c.norm_topk_prob,
        groups=groups,
        top_groups=top_groups,
        scale=c.routed_scaling_factor,
        shared=shared,
    )


def make_block(c: LatentConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, eps=c.rms_norm_eps)
    if c.has_experts(layer):
        mlp: nn.Module = make_mixture(c, ctx, f"{name}.mlp")
    else:
        mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, bias=c.mlp_bias)
    return PreNormBlock(
        norm(f"{name}.input_layernorm", c.hidden_size),
        LatentAttention(c, ctx, f"{name}.self_attn"),
        norm(f"{name}.post_attention_layernorm", c.hidden_size),
        mlp,
    )


class DeepseekModel(Decoder):
    further_layers = True

    def __init__(self, c: LatentConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))


class DeepseekForCausalLM(CausalDecoder, DeepseekModel): ...


class DeepseekForSequenceClassification(SequenceClassifier, DeepseekModel): ...
