"""Random numbers without state: a hash of a seed and a position.

A generator's numbers depend on how many were generated before. These depend only on the request and the token's
position, so a request gets the same numbers alone, in a batch, after a preemption, and if several of its positions are
sampled at once. The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), which passes the usual
statistical batteries on counters.
"""

from __future__ import annotations

from torch import Tensor

BITS = 31
"""Bits of each number. An integer below ``2**31`` times one below ``2**32`` fits in int64."""

_MASK = (1 << BITS) - 1


def _signed(value: int) -> int:
    """The int64 with the same bits as this 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; torch's keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift(value, 30)) * _FIRST
    value = (value ^ _shift(value, 27)) * _SECOND
    return value ^ _shift(value, 31)


def uniform(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number for each pair, uniform over the integers from 0 to ``2**31 - 1``.

    Args:
        seeds, positions: int64 ``[L]``.

    Returns:
        int64 ``[L]``.
    """
    # The seed is hashed by itself first: seeds that follow each other must not give shifted copies of one stream.
    return _shift(_mix(_mix(seeds + _GOLDEN) + positions * _GOLDEN), 64 - BITS)


def fraction_of(totals: Tensor, fractions: Tensor) -> Tensor:
    """``floor(total * fraction / 2**31)``, exactly.

    Args:
        totals: int64 ``[L]``, from 0 to below ``2**62``.
        fractions: int64 ``[L]``, from 0 to ``2**31``. Below ``2**31``, the result is below the total (or both are 0).
    """
    # The product has up to 93 bits, so the total is taken in two parts.
    return (totals >> BITS) * fractions + (((totals & _MASK) * fractions) >> BITS)
