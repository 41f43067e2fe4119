"""Command R and its relatives: blocks whose attention and MLP read the same layer norm (Cohere, 2024).

The second generation has a sliding window with rotary embeddings in three of four layers, and no positions in the
others (Yang et al., 2025).
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from dovetail.nn import CausalDecoder, Context, Decoder, GatedMLP, ParallelBlock, SelfAttention
from dovetail_models_cohere.config import CohereConfig


class HeadNorms(nn.Module):
    """A layer norm of each head with scales of its own: ``[T, H * D]`` → ``[T, H * D]``.

    Args:
        channels: of all heads of all ranks.
        cut: the channels that this rank has.
    """

    weight: Tensor

    def __init__(
        self, ctx: Context, name: str, channels: int, *, cut: tuple[int, int], head_dim: int, eps: float
    ) -> None:
        super().__init__()
        self.head_dim, self.eps = head_dim, eps
        own = slice(cut[0] // head_dim, cut[1] // head_dim)

        def assign(value: Tensor) -> None:
            self.weight = value[own].float().clone()  # [H, D]

        ctx.vector(f"{name}.weight", (channels // head_dim, head_dim), assign)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (-1, self.head_dim)).float()  # [T, H, D]
        return (F.layer_norm(heads, heads.shape[-1:], eps=self.eps) * self.weight).to(x.dtype).flatten(-2)


def make_block(c: CohereConfig, ctx: Context, name: str, layer: int) -> ParallelBlock:
    attention = SelfAttention(
        ctx,
        f"{name}.self_attn",
        channels=c.hidden_size,
        num_heads=c.num_attention_heads,
        num_kv_heads=c.num_key_value_heads,
        head_dim=c.head_dim,
        window=c.window(layer),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        interleaved=True,
        qk_norm=partial(HeadNorms, ctx, head_dim=c.head_dim, eps=c.layer_norm_eps) if c.use_qk_norm else None,
        norm_by="whole",
    )
    norm = ctx.norm(f"{name}.input_layernorm", c.hidden_size, c.layer_norm_eps, kind="layer")
    mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act)
    return ParallelBlock(norm, attention, mlp)


class CohereModel(Decoder):
    def __init__(self, c: CohereConfig, ctx: Context) -> None:
        norm = partial(ctx.norm, eps=c.layer_norm_eps, kind="layer")
        super().__init__(c, ctx, partial(make_block, c, ctx), norm, logits_multiplier=c.logit_scale)


class CohereForCausalLM(CausalDecoder, CohereModel): ...
