"""Blocks that most decoders share, built with a model's context: self-attention and MLPs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dovetail.api.decoder_config import DecoderConfig
from dovetail.nn.attention import AttentionSpec, Rotation
from dovetail.nn.context import Bias, Context
from dovetail.nn.layers import RMSNorm
from dovetail.nn.parallel import ColumnCut, Range, RowCut
from dovetail.nn.rotary import Rope
from dovetail.nn.step import Step
from dovetail.nn.weights import DeferredNorm, Gate

QKNorm = Callable[..., nn.Module]
"""Makes the norm of queries or keys from its checkpoint name and its number of channels, and where it is over all heads
from the ``cut`` of :meth:`dovetail.nn.Context.norm`, such as ``partial(ctx.norm, eps=1e-6)``.
"""


class SelfAttention(nn.Module):
    """qkv projection, norms of queries and keys, rotary embedding, attention, output projection: ``[T, C]`` →
    ``[T, C]``. Cut by heads.

    Args:
        name: checkpoint prefix, such as ``model.layers.0.self_attn``.
        window, chunk, softcap, causal: as in :class:`dovetail.nn.AttentionSpec`.
        sinks: checkpoint name of the sinks below ``name``, or None.
        alibi_slopes: of the heads of all ranks, for a layer with ALiBi.
        bias: q, k and v have biases; see :data:`dovetail.nn.Bias`.
        out_bias: the output projection has one.
        scale: defaults to ``head_dim ** -0.5``.
        interleaved: rotary pairs are adjacent channels.
        names: of q, k, v and output projection below ``name``; or of qkv, in one tensor, and output projection.
        transposed: full-precision checkpoints store the projections as ``[in, out]``.
        grouped: full-precision checkpoints store the rows of qkv, in one tensor, by key-value head: the rows of its query
            heads, then its own, then those of its values.
        clip: queries, keys and values are cut off at this number and its negative; None for unbounded ones.
        qk_norm: makes the norms of queries and keys, which are named by ``norm_names`` below ``name``.
        norm_after: the norms are after the rotary embedding, as Hunyuan's; otherwise before it.
        norm_by: ``head``: one norm over the channels of each head; ``whole``: over those of all heads together.
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
        chunk: int | None = None,
        softcap: float | None = None,
        causal: bool = True,
        sinks: str | None = None,
        alibi_slopes: Sequence[float] | None = None,
        bias: Bias = False,
        out_bias: Bias = False,
        scale: float | None = None,
        interleaved: bool = False,
        names: tuple[str, str, str, str] | tuple[str, str] = ("q_proj", "k_proj", "v_proj", "o_proj"),
        transposed: bool = False,
        grouped: bool = False,
        clip: float | None = None,
        qk_norm: QKNorm | None = None,
        norm_names: tuple[str, str] = ("q_norm", "k_norm"),
        norm_by: Literal["head", "whole"] = "head",
        norm_after: bool = False,
    ) -> None:
        super().__init__()
        heads = ctx.parallel.heads(num_heads, num_kv_heads)
        q, kv, d = num_heads * head_dim, num_kv_heads * head_dim, head_dim
        own_q, own_kv = _scaled(heads.q, d), _scaled(heads.kv, d)
        parts = [f"{name}.{part}" for part in names[:-1]]
        ranges: dict[str, tuple[Range, ...]]
        if len(parts) == 1:
            rows = {parts[0]: q + 2 * kv}
            ranges = {parts[0]: (own_q, _shifted(own_kv, q), _shifted(own_kv, q + kv))}
        else:
            rows = dict(zip(parts, (q, kv, kv), strict=True))
            ranges = dict(zip(parts, ((own_q,), (own_kv,), (own_kv,)), strict=True))
        order = _grouped_rows(num_heads, num_kv_heads, head_dim) if grouped else None
        self.qkv = ctx.linear(rows, channels, bias=bias, cut=RowCut(ranges), transposed=transposed, row_order=order)
        self.out = ctx.linear(
            f"{name}.{names[-1]}", q, channels, bias=out_bias, cut=ColumnCut((own_q,)), transposed=transposed
        )
        self.num_heads, self.num_kv_heads = heads.q[1] - heads.q[0], heads.kv[1] - heads.kv[0]
        spec = AttentionSpec(
            self.num_heads,
            self.num_kv_heads,
            head_dim,
            head_dim**-0.5 if scale is None else scale,
            window=window,
            chunk=chunk,
            softcap=softcap,
            sinks=sinks is not None,
            alibi_slopes=None if alibi_slopes is None else tuple(alibi_slopes[slice(*heads.q)]),
            causal=causal,
        )
        self.attention = ctx.attention(spec, sinks=None if sinks is None else f"{name}.{sinks}", cut=heads)
        self.head_dim = head_dim
        self.interleaved = interleaved
        self.clip = clip
        self.rope = ctx.ops.rope
        self.norm_by = norm_by
        assert qk_norm is not None or not norm_after, "norm_after says where the norms of qk_norm are"
        self.norm_after = norm_after
        self.has_norms = qk_norm is not None  # asked in every step, where a look at the list would take longer
        self.norms = nn.ModuleList()
        if qk_norm is not None:
            query, key = (f"{name}.{part}" for part in norm_names)
            if norm_by == "head":
                self.norms.extend((qk_norm(query, d), qk_norm(key, d)))
            else:
                self.norms.extend((qk_norm(query, q, cut=own_q), qk_norm(key, kv, cut=own_kv)))

    @classmethod
    def from_config(cls, c: DecoderConfig, ctx: Context, name: str, layer: int, **own: Any) -> SelfAttention:
        """A layer with the channels, heads, head size, window and slopes that the configuration has.

        Args:
            name: as in the constructor.
            own: its other arguments, or others in place of those.
        """
        usual = {
            "channels": c.hidden_size,
            "num_heads": c.num_attention_heads,
            "num_kv_heads": c.num_key_value_heads,
            "head_dim": c.head_dim,
            "window": c.window(layer),
            "alibi_slopes": c.slopes(),
        }
        return cls(ctx, name, **(usual | own))

    def forward(self, x: Tensor, rope: Rope | None, step: Step) -> Tensor:
        out: Tensor = self.out(self._attend(x, rope, step))
        return out

    def add(
        self, x: Tensor | DeferredNorm, rope: Rope | None, step: Step, residual: Tensor, norm: RMSNorm
    ) -> DeferredNorm:
        """``residual + self(x)`` with its norm yet to be computed, where both products defer it."""
        return self.out.add(self._attend(x, rope, step), residual, norm)

    def _attend(self, x: Tensor | DeferredNorm, rope: Rope | None, step: Step) -> Tensor:
        """``[T, H * D]``, before the output projection."""
        qkv = self.qkv(x)
        qkv = qkv.view(qkv.shape[0], -1, self.head_dim)  # [T, H + 2 * K, D]
        if self.clip is not None:
            qkv = qkv.clamp(-self.clip, self.clip)
        turned = self.num_heads + self.num_kv_heads
        qk, v = qkv[:, :turned], qkv[:, turned:]
        rotation = None if rope is None else Rotation(rope, self.interleaved, self.rope)
        if rotation is not None and self.norm_after:  # so it cannot be left to the backend
            qk, rotation = rotation(qk), None
        if self.has_norms:
            qk = self._norm(qk)
        if rotation is None:
            attended: Tensor = self.attention(qk[:, : self.num_heads], qk[:, self.num_heads :], v, step)  # [T, H, D]
        else:
            attended = self.attention(qk, None, v, step, rotation)
        return attended.flatten(-2)

    def _norm(self, qk: Tensor) -> Tensor:
        parts = qk.split((self.num_heads, self.num_kv_heads), 1)
        if self.norm_by == "whole":
            normed = [norm(part.flatten(-2)).view_as(part) for norm, part in zip(self.norms, parts, strict=True)]
        else:
            normed = [norm(part) for norm, part in zip(self.norms, parts, strict=True)]
        return torch.cat(normed, 1)


def _grouped_rows(num_heads: int, num_kv_heads: int, head_dim: int) -> Tensor:
    """Where the rows of q, k and v, one after the other, are among rows that are stored by key-value head."""
    stored = torch.arange((num_heads + 2 * num_kv_heads) * head_dim).view(num_kv_heads, -1, head_dim)
    return torch.cat([stored[:, :-2].flatten(), stored[:, -2].flatten(), stored[:, -1].flatten()])


class HeadNorms(nn.Module):
    """A layer norm of each head with a scale of its own, for ``norm_by="whole"``: ``[T, H * D]`` → ``[T, H * D]``,
    computed in float32.

    Args:
        name: checkpoint name; the scales are one tensor ``[H, D]``.
        channels: of all heads of all ranks.
        separate: the scale of each head is a tensor, ``norms.0.weight`` and so on below ``name``.
        cut: the channels that this rank has.
    """

    def __init__(
        self, ctx: Context, name: str, channels: int, *, cut: Range, head_dim: int, eps: float, separate: bool = False
    ) -> None:
        super().__init__()
        self.eps, self.norm = eps, ctx.ops.layer_norm
        own = range(cut[0] // head_dim, cut[1] // head_dim)
        self.weight = torch.empty(len(own), head_dim, dtype=torch.float32, device=ctx.device)

        def assign(value: Tensor, head: int) -> None:
            if head in own:
                self.weight[head - own.start] = value

        def assign_all(value: Tensor) -> None:
            self.weight.copy_(value[own.start : own.stop])

        if not separate:
            ctx.vector(f"{name}.weight", (channels // head_dim, head_dim), assign_all, dtype=torch.float32)
            return
        for head in range(channels // head_dim):
            ctx.vector(f"{name}.norms.{head}.weight", (head_dim,), partial(assign, head=head), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        heads = x.float().unflatten(-1, (-1, self.weight.shape[-1]))  # [T, H, D]
        out: Tensor = self.norm(heads, None, None, self.eps) * self.weight
        return out.flatten(-2).to(x.dtype)


def _scaled(heads: Range, size: int) -> Range:
    return heads[0] * size, heads[1] * size


def _shifted(rows: Range, by: int) -> Range:
    return rows[0] + by, rows[1] + by


class GatedMLP(nn.Module):
    """``down(act(gate(x)) * up(x))``: ``[T, C]`` → ``[T, C]``. Cut by inner channels.

    Args:
        activation: an operation of :mod:`dovetail.nn.ops` for gate.
        names: of gate, up and down below ``name``; or of gate and up, in one tensor, and down.
    """

    def __init__(
        self,
        ctx: Context,
        name: str,
        channels: int,
        inner: int,
        *,
        activation: str = "silu",
        bias: Bias = False,
        names: tuple[str, str, str] | tuple[str, str] = ("gate_proj", "up_proj", "down_proj"),
    ) -> None:
        super().__init__()
        parts = [f"{name}.{part}" for part in names[:-1]]
        if len(parts) == 1:
            own = ctx.parallel.channels(inner)
            both = RowCut({parts[0]: (own, _shifted(own, inner))})
            self.gate_up = ctx.linear(parts[0], channels, 2 * inner, bias=bias, cut=both)
        else:
            self.gate_up = ctx.linear(dict.fromkeys(parts, inner), channels, bias=bias, cut="rows")
        self.down = ctx.linear(f"{name}.{names[-1]}", inner, channels, bias=bias, cut="columns")
        self.gate = Gate(f"{activation}_mul", ctx.ops.activation(activation, gated=True))

    def forward(self, x: Tensor | DeferredNorm) -> Tensor:
        out: Tensor = self.down(self.gate_up(x, self.gate))
        return out

    def add(self, x: DeferredNorm, norm: RMSNorm) -> DeferredNorm:
        """``x.total + self(x)`` with its norm yet to be computed, where both products defer it."""
        return self.down.add(self.gate_up(x, self.gate), x.total, norm)


class MLP(nn.Module):
    """``down(act(up(x)))``: ``[T, C]`` → ``[T, C]``. Cut by inner channels.

    Args:
        activation: an operation of :mod:`dovetail.nn.ops`.
        names: of up and down below ``name``.
        transposed: full-precision checkpoints store both as ``[in, out]``.
    """

    def __init__(
        self,
        ctx: Context,
        name: str,
        channels: int,
        inner: int,
        *,
        activation: str,
        bias: Bias = True,
        names: tuple[str, str] = ("up_proj", "down_proj"),
        transposed: bool = False,
    ) -> None:
        super().__init__()
        up, down = (f"{name}.{part}" for part in names)
        self.up = ctx.linear(up, channels, inner, bias=bias, cut="rows", transposed=transposed)
        self.down = ctx.linear(down, inner, channels, bias=bias, cut="columns", transposed=transposed)
        self.activation = ctx.ops.activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.activation(self.up(x)))
        return out
