"""Comparison of two results by relative error, scaled to the precision of a dtype."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dovetail.api import Card


def dtype_of(name: str) -> torch.dtype:
    """The torch dtype that a card names."""
    found: Any = getattr(torch, name, None)
    assert isinstance(found, torch.dtype), f"{name!r} is not a torch dtype"
    return found


def tolerance(dtype: torch.dtype, rounds: float = 4) -> float:
    """The relative error of this many roundings in ``dtype``; never below 1e-5, which float32 sums of a few thousand
    terms reach.
    """
    return max(rounds * torch.finfo(dtype).eps, 1e-5)


def relative_error(found: Tensor, expected: Tensor, typical: Tensor | None = None) -> float:
    """The largest relative error of a vector along the last dimension; infinite if a value is NaN.

    Args:
        typical: typical norms of such vectors, if ``expected`` may be much smaller by chance.
    """
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    if not expected.numel():
        return 0.0
    scale = expected.norm(dim=-1)
    scale = (scale if typical is None else torch.maximum(scale, typical)).clamp_min(1e-30)
    error = (found - expected).norm(dim=-1) / scale
    return float(error.nan_to_num(nan=float("inf")).max())


def assert_close(found: Tensor, expected: Tensor, limit: float, claim: str, typical: Tensor | None = None) -> None:
    """Check that two results agree. A failure names the claim, the error and the limit."""
    assert found.shape == expected.shape, f"{claim}: the result is {list(found.shape)}, wanted {list(expected.shape)}"
    error = relative_error(found, expected, typical)
    assert error <= limit, f"{claim}: differs from the reference by {error:.2g} relative, more than {limit:.2g}"


def label(card: Card) -> str:
    """The name of a card in messages."""
    return f"{card.kind} {card.name!r}"
