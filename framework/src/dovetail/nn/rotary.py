"""Rotary position embeddings, with every published scaling that only changes frequencies.

Sources: Su et al. 2021 (RoPE); position interpolation, Chen et al. 2023 (``linear``); NTK-aware scaling (``dynamic``);
Peng et al. 2023 (``yarn``); bands of wavelengths that are stretched or kept (``llama3``); Ding et al. 2024
(``longrope``). The keys are those of ``rope_parameters`` / ``rope_scaling`` in Hugging Face configurations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rope:
    """cos and sin of every token of a step, ``[T, R]`` each, in the activations' dtype."""

    cos: Tensor
    sin: Tensor


ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
OTHER_NAMES = {"su": "longrope"}
"""Names of types in older configurations."""


class Rotary(nn.Module):
    """The angles of a model's positions, computed once per step and shared by its layers.

    Args:
        dim: rotated channels of a head (R is half of it).
        theta: base.
        scaling: the configuration's scaling object; its ``rope_type`` is one of :data:`ROPE_TYPES`.
        max_position: the context length that the model was trained for.
        max_tokens: the longest sequence of the engine (``dynamic`` scales to it, ``longrope`` chooses its factors by
            it).
    """

    def __init__(
        self, dim: int, theta: float, scaling: Mapping[str, Any] | None, *, max_position: int, max_tokens: int
    ) -> None:
        super().__init__()
        inverse, self.factor = frequencies(dim, theta, scaling or {}, max_position, max_tokens)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor  # [R]

    def divide_frequencies(self, factors: Tensor) -> None:
        """Divide the frequencies by factors ``[R]`` from a checkpoint."""
        self.inverse = self.inverse / factors.to(self.inverse)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rope:
        """Angles of positions (int64 ``[T]``) are computed in float32, and rounded once to the activations' dtype."""
        angles = positions[:, None].float() * self.inverse  # [T, R]
        return Rope((angles.cos() * self.factor).to(dtype), (angles.sin() * self.factor).to(dtype))


def frequencies(
    dim: int, theta: float, scaling: Mapping[str, Any], max_position: int, max_tokens: int
) -> tuple[Tensor, float]:
    """Inverse frequencies ``[dim / 2]`` (radians per token) and the factor on cos and sin.

    Raises:
        ValueError: the scaling's type is unknown, or it lacks a key.
    """
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    kind = OTHER_NAMES.get(kind, kind)
    if kind not in ROPE_TYPES:
        raise ValueError(f"unknown rope_type {kind!r}; known: {', '.join(ROPE_TYPES)}")
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    base = 1.0 / theta**exponents
    if kind == "default":
        return base, 1.0
    if kind == "dynamic":
        # Within the trained length the base stays as it is; past it, it grows so that the lowest frequency just fits.
        length = max(max_tokens, max_position)
        factor = float(scaling["factor"])
        grown = theta * (factor * length / max_position - (factor - 1)) ** (dim / (dim - 2))
        return 1.0 / grown**exponents, 1.0
    if kind == "longrope":
        return _longrope(base, scaling, max_position, max_tokens)
    factor = float(scaling["factor"])
    if kind == "linear":
        return base / factor, 1.0
    if kind == "llama3":
        return _llama3(base, factor, scaling), 1.0
    return _yarn(base, dim, theta, factor, scaling, max_position)


def _llama3(base: Tensor, factor: float, scaling: Mapping[str, Any]) -> Tensor:
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    trained = float(scaling["original_max_position_embeddings"])
    wavelength = 2 * math.pi / base
    # 0 where a full turn is longer than trained / low (scaled by the factor), 1 where it is shorter than trained / high (kept).
    keep = ((trained / wavelength - low) / (high - low)).clamp(0, 1)
    return base / factor * (1 - keep) + base * keep


def _yarn(
    base: Tensor, dim: int, theta: float, factor: float, scaling: Mapping[str, Any], max_position: int
) -> tuple[Tensor, float]:
    trained = float(scaling.get("original_max_position_embeddings") or max_position)

    def channel(turns: float) -> float:
        """The channel pair that makes this many full turns over the trained length."""
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))

    first, last = channel(float(scaling.get("beta_fast") or 32)), channel(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    span = last - first if last != first else 0.001
    interpolated = ((torch.arange(dim // 2, dtype=torch.float32) - first) / span).clamp(0, 1)
    kept = (1 - interpolated) * float(scaling.get("extrapolation_factor", 1.0))
    inverse = base / factor * (1 - kept) + base * kept

    def temperature(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    attention = scaling.get("attention_factor")
    if attention is None:
        mscale, mscale_all = scaling.get("mscale"), scaling.get("mscale_all_dim")
        attention = temperature(mscale) / temperature(mscale_all) if mscale and mscale_all else temperature(1.0)
    return inverse, float(attention)


def _longrope(base: Tensor, scaling: Mapping[str, Any], max_position: int, max_tokens: int) -> tuple[Tensor, float]:
    """One divisor for each frequency, from the list for short or for long contexts. Without lists, the checkpoint
    contains the divisors.
    """
    original = int(scaling.get("original_max_position_embeddings") or max_position)
    divisors = scaling.get("long_factor" if max_tokens > original else "short_factor")
    inverse = base if divisors is None else base / torch.tensor(divisors, dtype=torch.float32)
    attention = scaling.get("attention_factor")
    if attention is None:
        # Some files write the factor, the others the two lengths.
        factor = float(scaling.get("factor") or max_position / original)
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return inverse, float(attention)
