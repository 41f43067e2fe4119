"""StableLM: Llama's block with layer norms, and rotary embeddings on a part of each head (Bellagamba et al., 2024). Norms
of queries and keys are of each head by itself, and attention and MLP may read the same norm.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from dovetail.nn import (
    CausalDecoder,
    Context,
    Decoder,
    GatedMLP,
    ParallelBlock,
    PreNormBlock,
    SelfAttention,
    SequenceClassifier,
)
from dovetail_models_stablelm.config import StableLmConfig


class HeadNorms(nn.Module):
    """Layer normalisation of each head by itself, with a scale ``[D]`` of its own: ``[T, H * D]`` → ``[T, H * D]``.

    Args:
        name: checkpoint prefix; the heads' scales are ``norms.0.weight`` and so on below it, or all ``weight``.
        channels: of all heads.
        stacked: the checkpoint has one tensor ``[H, D]``.
        cut: the channels that this rank has.
    """

    def __init__(self, c: StableLmConfig, ctx: Context, name: str, channels: int, *, cut: tuple[int, int]) -> None:
        super().__init__()
        self.eps, self.ops = c.layer_norm_eps, ctx.ops
        size, heads = c.head_dim, channels // c.head_dim
        own = range(cut[0] // size, cut[1] // size)
        self.weight = torch.empty(len(own), size, dtype=torch.float32, device=ctx.device)

        def assign(value: Tensor, head: int) -> None:
            if head in own:
                self.weight[head - own.start] = value

        def assign_all(value: Tensor) -> None:
            self.weight.copy_(value[own.start : own.stop])

        if c.qk_layernorm == "stacked":
            ctx.vector(f"{name}.weight", (heads, size), assign_all, dtype=torch.float32)
            return
        for head in range(heads):
            ctx.vector(f"{name}.norms.{head}.weight", (size,), partial(assign, head=head), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.float().unflatten(-1, (-1, self.weight.shape[-1]))  # [T, H, D]
        out: Tensor = self.ops.layer_norm(heads, None, None, self.eps) * self.weight
        return out.flatten(-2).to(x.dtype)


def make_block(c: StableLmConfig, ctx: Context, name: str, layer: int) -> PreNormBlock | ParallelBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.layer_norm_eps, kind="layer", bias=True)
    attention = SelfAttention(
        ctx,
        f"{name}.self_attn",
        channels=c.hidden_size,
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        bias=c.use_qkv_bias,
        qk_norm=partial(HeadNorms, c, ctx) if c.qk_layernorm else None,
        norm_names=("q_layernorm", "k_layernorm"),
        norm_by="whole",
    )
    mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act)
    first = norm(f"{name}.input_layernorm")
    if c.use_parallel_residual:
        return ParallelBlock(first, attention, mlp)
    return PreNormBlock(first, attention, norm(f"{name}.post_attention_layernorm"), mlp)


class StableLmModel(Decoder):
    def __init__(self, c: StableLmConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer", bias=True)
        super().__init__(c, ctx, partial(make_block, c, ctx), norm)


class StableLmForCausalLM(CausalDecoder, StableLmModel): ...


class StableLmForSequenceClassification(SequenceClassifier, StableLmModel): ...
