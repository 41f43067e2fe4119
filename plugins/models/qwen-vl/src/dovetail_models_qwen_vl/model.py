"""Qwen2.5-VL: a tower of window attention over patches of any number, and a Qwen 2 whose rotary positions have axes (Bai
et al., 2025).

Letters: W windows, S patches of a window, P values of a patch, C channels, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from dovetail.nn import CausalDecoder, Context, GatedMLP, PreNormBlock, SelfAttention
from dovetail_models_qwen_vl.config import MAX_IMAGE_TOKENS, Qwen2_5VLConfig, TowerConfig

THETA = 10000.0
EPS = 1e-6


class WindowAttention(nn.Module):
    """Attention within windows, or among all patches: ``[W, S, C]`` → ``[W, S, C]``."""

    def __init__(self, c: TowerConfig, ctx: Context, name: str, *, whole: bool) -> None:
        super().__init__()
        self.num_heads, self.whole = c.num_heads, whole
        self.qkv = ctx.linear(f"{name}.qkv", c.hidden_size, 3 * c.hidden_size, bias=True)
        self.out = ctx.linear(f"{name}.proj", c.hidden_size, c.hidden_size, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> Tensor:
        """
        Args:
            cos, sin: ``[W, S, 1, D / 2]``, float32.
            seen: bool ``[W, S]``, the patches that there are.
        """
        qkv = self.qkv(x.flatten(0, 1)).view(*x.shape[:2], 3, self.num_heads, -1)  # [W, S, 3, H, D]
        qk, v = qkv[:, :, :2].float(), qkv[:, :, 2]
        first, second = qk.chunk(2, -1)
        cos, sin = cos[:, :, None], sin[:, :, None]
        qk = torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
        q, k = qk.unbind(2)
        if self.whole:  # one window of everything
            q, k, v, seen = (part.flatten(0, 1)[None] for part in (q, k, v, seen))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # [W, H, S, D]
        attended = scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None])
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return out.view_as(x)


class TowerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``: ``[W, S, C]`` → ``[W, S, C]``."""

    def __init__(self, c: TowerConfig, ctx: Context, name: str, *, whole: bool) -> None:
        super().__init__()
        self.attention_norm = ctx.norm(f"{name}.norm1", c.hidden_size, EPS)
        self.attention = WindowAttention(c, ctx, f"{name}.attn", whole=whole)
        self.mlp_norm = ctx.norm(f"{name}.norm2", c.hidden_size, EPS)
        self.mlp = GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size, activation=c.hidden_act, bias=True)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, seen: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, seen)
        out: Tensor = x + self.mlp(self.mlp_norm(x).flatten(0, 1)).view_as(x)
        return out


class Tower(nn.Module):
    """The embeddings of an image's merged patches, in their order: ``[N, C]``."""

    def __init__(self, c: TowerConfig, ctx: Context, name: str) -> None:
        super().__init__()
        self.patch_weight = torch.empty(0)
        shape = (c.hidden_size, c.in_channels, c.temporal_patch_size, c.patch_size, c.patch_size)
        ctx.vector(f"{name}.patch_embed.proj.weight", shape, self._take_patch_weight)
        self.blocks = nn.ModuleList(
            TowerBlock(c, ctx, f"{name}.blocks.{layer}", whole=layer in c.fullatt_block_indexes)
            for layer in range(c.depth)
        )
        quarter = c.hidden_size // c.num_heads // 4
        inverse = 1.0 / THETA ** (torch.arange(quarter, dtype=torch.float32) / quarter)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor  # [D / 4]
        self.merged = c.hidden_size * c.spatial_merge_size**2
        self.norm = ctx.norm(f"{name}.merger.ln_q", c.hidden_size, EPS)
        self.up = ctx.linear(f"{name}.merger.mlp.0", self.merged, self.merged, bias=True)
        self.down = ctx.linear(f"{name}.merger.mlp.2", self.merged, c.out_hidden_size, bias=True)
        self.activation = ctx.ops.activation("gelu")

    def _take_patch_weight(self, value: Tensor) -> None:
        self.patch_weight = value.flatten(1)

    def forward(self, patches: Tensor, places: Tensor, seen: Tensor, back: Tensor) -> Tensor:
        """
        Args:
            patches: ``[W, S, P]``.
            places: int64 ``[W, S, 2]``, the row and column of each.
            seen: bool ``[W, S]``, the patches that there are.
            back: int64 ``[N]``, where each merged patch is among those of all windows.
        """
        x = linear(patches.to(self.patch_weight.dtype), self.patch_weight)
        angles = (places[..., None].float() * self.inverse).flatten(2)[:, :, None]  # [W, S, 1, D / 2]
        cos, sin = angles.cos(), angles.sin()
        for block in self.blocks:
            x = block(x, cos, sin, seen)
        merged = self.norm(x).view(-1, self.merged).index_select(0, back)
        out: Tensor = self.down(self.activation(self.up(merged)))
        return out


def make_block(c: Qwen2_5VLConfig, ctx: Context, name: str, layer: int) -> PreNormBlock:
    norm = partial(ctx.norm, channels=c.hidden_size, eps=c.rms_norm_eps)
    return PreNormBlock(
        norm(f"{name}.input_layernorm"),
        SelfAttention.from_config(c, ctx, f"{name}.self_attn", layer, bias=True),
        norm(f"{name}.post_attention_layernorm"),
        GatedMLP(ctx, f"{name}.mlp", c.hidden_size, c.intermediate_size),
    )


class Qwen2_5VLForConditionalGeneration(CausalDecoder):  # noqa: N801  # the version's number
    def __init__(self, c: Qwen2_5VLConfig, ctx: Context) -> None:
        super().__init__(c, ctx, partial(make_block, c, ctx), partial(ctx.norm, eps=c.rms_norm_eps))
        tower = c.vision_config
        self.tower = Tower(tower, ctx, "visual")
        patches = min(MAX_IMAGE_TOKENS, ctx.max_tokens) * tower.spatial_merge_size**2
        self.image_elements = patches * (8 * tower.hidden_size + 3 * tower.intermediate_size)

    def rename(self, name: str) -> str | None:
        """Published files are named as transformers named its modules before version 5, others as since then."""
        if name.startswith("model.visual."):
            return name.removeprefix("model.")
        return name.replace("model.language_model.", "model.", 1)

    def embed_image(self, arrays: Mapping[str, Tensor]) -> Tensor:
        """
        Args:
            arrays: ``patches``, ``places``, ``seen`` and ``back``; see :meth:`Tower.forward`.
        """
        out: Tensor = self.tower(**arrays)
        return out
