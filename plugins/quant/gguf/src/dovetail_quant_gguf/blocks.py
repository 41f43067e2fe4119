"""Building blocks for the layouts of all types.

Every ggml type divides a row into blocks of a fixed number of weights and bytes. Every block is integer codes times
scales, plus minimums in some types. The types differ in the byte layout of these.

Letters: B blocks, W weights in a block, G groups in a block (the weights of a group share a scale).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dovetail.nn import TwoLevelScales


class Codes(NamedTuple):
    """Unpacked blocks: ``w = scale * code + min``.

    Attributes:
        codes: uint8 or int8 ``[B, W]``.
        scales: ``[B, G]``, float32 or float16, or products of a block's scale and the groups' codes.
        mins: ``[B, G]`` likewise, or None for zero.
    """

    codes: Tensor
    scales: Tensor | TwoLevelScales
    mins: Tensor | TwoLevelScales | None = None


Unpack = Callable[[Tensor], Codes]
"""uint8 ``[B, bytes of a block]`` → codes."""


def dequantize(unpacked: Codes) -> Tensor:
    """float32 ``[B, W]``.

    The products of codes and scales have at most 24 significant bits in every type, so they are exact, and the sum with
    the minimum is rounded once. Any order of operations, fused or not, gives the same bits.
    """
    codes, scales, mins = unpacked
    groups = codes.float().unflatten(-1, (scales.shape[-1], -1))  # [B, G, W/G]
    groups.mul_(scales.float()[..., None])
    if mins is not None:
        groups.add_(mins.float()[..., None])
    return groups.flatten(-2)


def half(blocks: Tensor, at: int) -> Tensor:
    """The float16 number at a byte of every block: ``[B, 1]``."""
    return numbers(blocks[:, at : at + 2], torch.float16)


def numbers(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes as little-endian numbers: uint8 ``[B, n * bytes of a number]`` → ``[B, n]``."""
    # A copy even of what is contiguous, since numbers cannot be viewed at an odd offset.
    return data.clone(memory_format=torch.contiguous_format).view(dtype)


def words(data: Tensor) -> Tensor:
    """Unsigned 16-bit words as int32: uint8 ``[B, 2n]`` → ``[B, n]``."""
    return numbers(data, torch.int16).int().bitwise_and_(0xFFFF)


def fields(data: Tensor, bits: int) -> Tensor:
    """The bit fields of bytes, lowest first, each as a separate plane: uint8 ``[..., n]`` → ``[..., 8 / bits, n]``.

    Plane by plane rather than with one broadcast shift, which torch does not vectorise (20 times slower on a CPU).
    """
    data = data.contiguous()  # every pass below is twice as fast so
    mask, last = (1 << bits) - 1, 8 - bits
    planes = [data & mask, *((data >> shift) & mask for shift in range(bits, last, bits)), data >> last]
    return torch.stack(planes, -2)


def digits(data: Tensor, shifts: Sequence[int], mask: int) -> Tensor:
    """Fields of integers, concatenated: ``[..., n]`` → ``[..., n, len(shifts)]``."""
    return torch.stack([(data >> shift) & mask for shift in shifts], -1)
