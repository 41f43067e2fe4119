"""Blocks that most decoders share, built with a model's context: self-attention and a gated MLP."""

from __future__ import annotations

from torch import Tensor, nn

from dovetail.nn.attention import AttentionSpec
from dovetail.nn.context import Bias, Context
from dovetail.nn.rotary import Rope
from dovetail.nn.step import Step


class SelfAttention(nn.Module):
    """qkv projection, rotary embedding, attention, output projection: ``[T, C]`` → ``[T, C]``.

    Args:
        name: checkpoint prefix, such as ``model.layers.0.self_attn``.
        window: sliding window in tokens, or None.
        bias: q, k and v have biases; see :data:`dovetail.nn.context.Bias`.
        out_bias: the output projection has one.
        scale: defaults to ``head_dim ** -0.5``.
        interleaved: rotary pairs are adjacent channels.
        names: of q, k, v and output projection below ``name``.
    """

    def __init__(
        self,
        ctx: Context,
        name: str,
        *,
        channels: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        window: int | None = None,
        bias: Bias = False,
        out_bias: Bias = False,
        scale: float | None = None,
        interleaved: bool = False,
        names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
    ) -> None:
        super().__init__()
        q, k, v, o = (f"{name}.{n}" for n in names)
        rows = {q: num_heads * head_dim, k: num_kv_heads * head_dim, v: num_kv_heads * head_dim}
        self.qkv = ctx.linear(rows, channels, bias=bias)
        self.out = ctx.linear(o, num_heads * head_dim, channels, bias=out_bias)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.attention = ctx.attention(
            AttentionSpec(num_heads, num_kv_heads, head_dim, head_dim**-0.5 if scale is None else scale, window)
        )
        self.head_dim = head_dim
        self.interleaved = interleaved
        self.rope = ctx.ops.rope

    def forward(self, x: Tensor, rope: Rope, step: Step) -> Tensor:
        qkv = self.qkv(x).view(x.shape[0], -1, self.head_dim)  # [T, H + 2 * K, D]
        turned = self.num_heads + self.num_kv_heads  # q and k are rotated in the same way, so they are rotated together
        qk = self.rope(qkv[:, :turned], rope.cos, rope.sin, self.interleaved)
        attended = self.attention(qk[:, : self.num_heads], qk[:, self.num_heads :], qkv[:, turned:], step)  # [T, H, D]
        out: Tensor = self.out(attended.flatten(-2))
        return out


class GatedMLP(nn.Module):
    """``down(act(gate(x)) * up(x))``: ``[T, C]`` → ``[T, C]``.

    Args:
        activation: an operation of :mod:`dovetail.nn.ops` that maps gate and up, side by side, to their product.
    """

    def __init__(
        self, ctx: Context, name: str, channels: int, inner: int, *, activation: str = "silu_mul", bias: Bias = False
    ) -> None:
        super().__init__()
        self.gate_up = ctx.linear({f"{name}.gate_proj": inner, f"{name}.up_proj": inner}, channels, bias=bias)
        self.down = ctx.linear({f"{name}.down_proj": channels}, inner, bias=bias)
        self.activation = getattr(ctx.ops, activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.gate_up(x)))
        return out
