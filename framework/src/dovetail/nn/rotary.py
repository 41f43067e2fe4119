"""Rotary position embeddings, with every published scaling that only changes frequencies.

Their parameters, and the sources of the methods, are in :mod:`dovetail.api.rope`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dovetail.api.decoder_config import DecoderConfig
from dovetail.api.rope import RopeParameters
from dovetail.nn.ops import Ops


@dataclass(frozen=True)
class Rope:
    """cos and sin of every token of a step, ``[T, R]`` each, in the activations' dtype."""

    cos: Tensor
    sin: Tensor


class Rotary(nn.Module):
    """The angles of a model's positions, computed once per step and shared by its layers.

    Args:
        dim: rotated channels of a head (R is half of it).
        parameters: base and scaling.
        max_position: the context length that the model was trained for, in tokens.
        max_tokens: the longest sequence of the engine (``dynamic`` scales to it, ``longrope`` chooses its factors by
            it).
        ops: the platform's; None for the references.
    """

    def __init__(
        self, dim: int, parameters: RopeParameters, *, max_position: int, max_tokens: int, ops: Ops | None = None
    ) -> None:
        super().__init__()
        self.angles = (ops or Ops()).rope_angles
        inverse, self.factor = frequencies(dim, parameters, max_position, max_tokens)
        self.register_buffer("inverse", inverse, persistent=False)
        self.inverse: Tensor  # [R]
        axes = [axis % 3 for axis, count in enumerate(parameters.sections) for _ in range(count)]
        self.register_buffer("axes", torch.tensor(axes, dtype=torch.int64) if axes else None, persistent=False)
        self.axes: Tensor | None  # [R]

    def divide_frequencies(self, factors: Tensor) -> None:
        """Divide the frequencies by factors ``[R]`` from a checkpoint."""
        self.inverse = self.inverse / factors.to(self.inverse)

    def forward(self, positions: Tensor, dtype: torch.dtype, by_axis: Tensor | None = None) -> Rope:
        """Angles of positions (int64 ``[T]``) are computed in float32, and rounded once to the activations' dtype.

        Args:
            by_axis: int64 ``[3, T]``, positions for a rotary embedding with sections: those frequencies take the positions
                of their axis. Others take ``positions``.
        """
        if by_axis is None or self.axes is None:
            return Rope(*self.angles(positions, self.inverse, self.factor, dtype))
        angles = by_axis.index_select(0, self.axes).T.float() * self.inverse  # [T, R]
        return Rope((angles.cos() * self.factor).to(dtype), (angles.sin() * self.factor).to(dtype))


class LayerRotary(nn.Module):
    """The rotary embeddings of a decoder by layer type, for models whose types may differ in them. Types with equal
    parameters share their angles.

    Args:
        config: the model's configuration.
        max_tokens: the longest sequence of the engine.
        ops: the platform's; None for the references.
    """

    def __init__(self, config: DecoderConfig, *, max_tokens: int, ops: Ops | None = None) -> None:
        super().__init__()
        self.rotaries = nn.ModuleList()
        self.index: dict[str, int] = {}
        """Layer type → its place in :attr:`rotaries`."""
        distinct: list[RopeParameters] = []
        for layer, kind in enumerate(config.layer_types):
            if kind in self.index or not config.has_rope(layer):
                continue
            parameters = config.rope_for(layer)
            if parameters not in distinct:
                distinct.append(parameters)
                dim, max_position = config.rotary_dim(layer), config.max_position_embeddings
                self.rotaries.append(Rotary(dim, parameters, max_position=max_position, max_tokens=max_tokens, ops=ops))
            self.index[kind] = distinct.index(parameters)

    def divide_frequencies(self, factors: Tensor) -> None:
        """Divide all frequencies by factors ``[R]`` from a checkpoint."""
        for rotary in self.rotaries:
            assert isinstance(rotary, Rotary)
            rotary.divide_frequencies(factors)

    def forward(self, positions: Tensor, dtype: torch.dtype, by_axis: Tensor | None = None) -> dict[str, Rope]:
        """Layer type → the angles of positions (int64 ``[T]``, and ``[3, T]``), as :class:`Rotary` computes them."""
        angles = [rotary(positions, dtype, by_axis) for rotary in self.rotaries]
        return {kind: angles[index] for kind, index in self.index.items()}


def frequencies(dim: int, parameters: RopeParameters, max_position: int, max_tokens: int) -> tuple[Tensor, float]:
    """Inverse frequencies ``[dim / 2]`` (radians per token) and the factor on cos and sin. The arguments are those of
    :class:`Rotary`.
    """
    theta, factor = parameters.rope_theta, parameters.factor or 1.0
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    base = 1.0 / theta**exponents
    match parameters.rope_type:
        case "default":
            return base, 1.0
        case "linear":
            return base / factor, 1.0
        case "dynamic":
            # Within the trained length the base stays as it is; past it, it grows so that the lowest frequency just fits.
            length = max(max_tokens, max_position)
            grown = theta * (factor * length / max_position - (factor - 1)) ** (dim / (dim - 2))
            return 1.0 / grown**exponents, 1.0
        case "yarn":
            return _yarn(base, dim, factor, parameters, max_position)
        case "llama3":
            return _llama3(base, factor, parameters), 1.0
        case "longrope":
            return _longrope(base, parameters, max_position, max_tokens)


def _llama3(base: Tensor, factor: float, parameters: RopeParameters) -> Tensor:
    low, high = parameters.low_freq_factor, parameters.high_freq_factor
    trained = parameters.original_max_position_embeddings
    assert low is not None, "RopeParameters requires what its type needs"
    assert high is not None
    assert trained is not None
    turns = trained / (2 * math.pi / base)
    # 0 where there are fewer full turns than low (divided by the factor), 1 where there are more than high (kept).
    keep = ((turns - low) / (high - low)).clamp(0, 1) if high > low else (turns >= high).float()
    return base / factor * (1 - keep) + base * keep


def _yarn(base: Tensor, dim: int, factor: float, parameters: RopeParameters, max_position: int) -> tuple[Tensor, float]:
    trained = parameters.original_max_position_embeddings or max_position

    def channel(turns: float) -> float:
        """The channel pair that makes this many full turns over the trained length."""
        return dim * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(parameters.rope_theta))

    first, last = channel(parameters.beta_fast or 32), channel(parameters.beta_slow or 1)
    if parameters.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dim - 1)
    span = last - first if last != first else 0.001
    interpolated = ((torch.arange(dim // 2, dtype=torch.float32) - first) / span).clamp(0, 1)
    kept = (1 - interpolated) * (parameters.extrapolation_factor or 1.0)
    inverse = base / factor * (1 - kept) + base * kept

    def temperature(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    attention = parameters.attention_factor
    if attention is None:
        mscale, mscale_all = parameters.mscale, parameters.mscale_all_dim
        attention = temperature(mscale) / temperature(mscale_all) if mscale and mscale_all else temperature(1.0)
    return inverse, attention


def _longrope(base: Tensor, parameters: RopeParameters, max_position: int, max_tokens: int) -> tuple[Tensor, float]:
    """One divisor for each frequency, from the list for short or for long contexts. Without lists, the checkpoint
    contains the divisors.
    """
    original = parameters.original_max_position_embeddings or max_position
    long = max_tokens > original
    divisors = parameters.long_factor if long else parameters.short_factor
    inverse = base if divisors is None else base / torch.tensor(divisors, dtype=torch.float32)
    attention = parameters.long_mscale if long else parameters.short_mscale
    attention = parameters.attention_factor if attention is None else attention
    if attention is None:
        # Some files write the factor, the others the two lengths.
        factor = parameters.factor or max_position / original
        attention = 1.0 if factor <= 1 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return inverse, attention
