"""What encoders of images share: rows of patches, and blocks in which all rows of one image see each other.

Letters: N rows of an image, C channels, H heads, D head dim.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from dovetail.nn.context import Bias, Context, Norm


class PatchEmbedding(nn.Module):
    """The vectors of an image's patches, row by row: ``[3, height, width]`` → ``[N, C]``. Whole on every rank.

    Args:
        name: checkpoint name of the convolution ``[C, 3, patch, patch]`` whose stride is its size.
        patch: height and width of a patch, in pixels; the image's are multiples of it.
    """

    def __init__(self, ctx: Context, name: str, channels: int, patch: int, *, bias: bool) -> None:
        super().__init__()
        self.patch = patch
        self.weight = torch.empty(0)
        self.bias: Tensor | None = None
        ctx.vector(f"{name}.weight", (channels, 3, patch, patch), self._take_weight)
        if bias:
            ctx.vector(f"{name}.bias", (channels,), lambda value: setattr(self, "bias", value))

    def _take_weight(self, value: Tensor) -> None:
        self.weight = value.flatten(1)

    def forward(self, pixels: Tensor) -> Tensor:
        size = self.patch
        patches = pixels.to(self.weight.dtype).unflatten(2, (-1, size)).unflatten(1, (-1, size))  # [3, h, P, w, P]
        return linear(patches.permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1), self.weight, self.bias)


class TowerAttention(nn.Module):
    """Attention among all rows of an image, without a cache: ``[N, C]`` → ``[N, C]``. Whole on every rank.

    Args:
        name: checkpoint prefix.
        names: of q, k, v and output projection below ``name``.
    """

    def __init__(
        self,
        ctx: Context,
        name: str,
        channels: int,
        num_heads: int,
        *,
        names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "out_proj"),
        bias: Bias = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = ctx.linear({f"{name}.{part}": channels for part in names[:3]}, channels, bias=bias)
        self.out = ctx.linear(f"{name}.{names[3]}", channels, channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(1, 2, 0, 3)  # [3, H, N, D]
        attended = scaled_dot_product_attention(qkv[0][None], qkv[1][None], qkv[2][None])[0]  # [H, N, D]
        return cast(Tensor, self.out(attended.transpose(0, 1).flatten(1)))


class TowerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``: ``[N, C]`` → ``[N, C]``."""

    def __init__(self, attention_norm: Norm, attention: nn.Module, mlp_norm: Norm, mlp: nn.Module) -> None:
        super().__init__()
        self.attention_norm = attention_norm
        self.attention = attention
        self.mlp_norm = mlp_norm
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return cast(Tensor, x + self.mlp(self.mlp_norm(x)))
