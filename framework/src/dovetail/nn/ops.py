"""Operations that a platform can replace with faster ones, by name, each with a slow and simple reference.

Models and the engine call these through an :class:`Ops` object and never check the device. A platform replaces some of
them (:meth:`dovetail.nn.Platform.operations`); the others run the reference.

Letters: T tokens, H heads, D head dimension, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dovetail.api.errors import PluginError


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (Zhang and Sennrich, 2019) in float32: x ``[..., C]``, weight ``[C]`` → ``[..., C]`` in x's dtype."""
    wide = x.float()
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * normed.to(x.dtype)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``residual + x``, normalised, and the sum itself, which is the next residual. Neither input is changed."""
    total = residual + x
    return rms_norm(total, weight, eps), total


def rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary position embedding (Su et al., 2021) on the first ``2 * R`` channels of each head.

    Args:
        x: ``[T, H, D]``.
        cos, sin: ``[T, R]``, ``2 * R <= D``; taken in x's dtype.
        interleaved: channels ``2i`` and ``2i + 1`` are rotated together; otherwise ``i`` and ``i + R``.

    Returns:
        ``[T, H, D]`` in x's dtype; channels past ``2 * R`` are unchanged.
    """
    rotated = 2 * cos.shape[-1]
    head, tail = x[..., :rotated], x[..., rotated:]
    cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)  # [T, 1, R]
    if interleaved:
        a, b = head[..., 0::2], head[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = head.chunk(2, -1)
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((out, tail), -1) if tail.shape[-1] else out


def silu_mul(x: Tensor) -> Tensor:
    """``silu(gate) * up`` with gate and up side by side: ``[..., 2 * C]`` → ``[..., C]``."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def gelu_tanh_mul(x: Tensor) -> Tensor:
    """``gelu(gate, tanh) * up`` with gate and up side by side: ``[..., 2 * C]`` → ``[..., C]``."""
    gate, up = x.chunk(2, -1)
    return F.gelu(gate, approximate="tanh") * up


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T``: x ``[..., K]``, weight ``[N, K]`` of the same dtype → ``[..., N]``. Every kernel that multiplies dense numbers calls this."""
    return F.linear(x, weight)


def lay_out(weight: Tensor) -> Tensor:
    """The weight ``[N, K]`` with the memory layout (strides) that ``linear`` is fastest with. Values and shape are
    unchanged.
    """
    return weight


REFERENCES: dict[str, Callable[..., Any]] = {
    f.__name__: f for f in (rms_norm, add_rms_norm, rope, silu_mul, gelu_tanh_mul, linear, lay_out)
}


class Ops:
    """The operations of one platform.

    Args:
        claimed: name → implementation with the reference's signature.

    Raises:
        PluginError: a claimed name is not an operation.
    """

    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    add_rms_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
    rope: Callable[..., Tensor]
    silu_mul: Callable[[Tensor], Tensor]
    gelu_tanh_mul: Callable[[Tensor], Tensor]
    linear: Callable[[Tensor, Tensor], Tensor]
    lay_out: Callable[[Tensor], Tensor]

    def __init__(self, claimed: Mapping[str, Callable[..., Any]] | None = None) -> None:
        claimed = claimed or {}
        if unknown := sorted(set(claimed) - set(REFERENCES)):
            raise PluginError(
                f"the platform claims the operations {', '.join(unknown)}, which do not exist",
                f"known: {', '.join(REFERENCES)}",
            )
        for name, reference in REFERENCES.items():
            setattr(self, name, claimed.get(name, reference))
