"""Experts that a dtype's rounding chooses otherwise.

Of two experts with nearly the same score, rounding may change which is chosen. Then the token's result, and what later
tokens see of it, is another, although nothing is wrong. So a model is run in half precision with the choices that it
made in float32, and what must be close are the router's logits.

Letters: T tokens, E experts, A experts of a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dovetail.nn import Ops
from dovetail.nn.ops import route
from dovetail.testing.comparison import assert_close


@dataclass(frozen=True)
class Choice:
    """One call of the operation ``route``.

    Attributes:
        logits: ``[T, E]``.
        ids, weights: ``[T, A]``, as ``route`` gives them.
    """

    logits: Tensor
    ids: Tensor
    weights: Tensor


class RoutingRecorder:
    """Operations that record what ``route`` chooses.

    Args:
        wanted: choices of another run, call by call: a token that would get other experts gets these, with their weights.

    Attributes:
        choices: of this run, before they are replaced.
    """

    def __init__(self, wanted: Iterable[Choice] = ()) -> None:
        self.choices: list[Choice] = []
        self._wanted: Sequence[Choice] = tuple(wanted)
        self.ops = Ops({"route": self._route})

    def _route(self, logits: Tensor, *arguments: Any, **keys: Any) -> tuple[Tensor, Tensor]:
        ids, weights = route(logits, *arguments, **keys)
        call = len(self.choices)
        self.choices.append(Choice(logits, ids, weights))
        wanted = self._wanted[call] if call < len(self._wanted) else None
        if wanted is None or wanted.ids.shape != ids.shape:
            return ids, weights
        other = (ids.sort(-1).values != wanted.ids.sort(-1).values).any(-1, keepdim=True)  # [T, 1]
        return torch.where(other, wanted.ids, ids), torch.where(other, wanted.weights, weights)

    def check_logits(self, limit: float, claim: str) -> None:
        """Check that the routers' logits are close to those of the other run, so that only experts with nearly the same
        score can be chosen otherwise.

        Raises:
            AssertionError: they are not.
        """
        for call, (found, wanted) in enumerate(zip(self.choices, self._wanted, strict=False), 1):
            text = f"{claim}: the logits of its router, in call {call} of {len(self._wanted)}"
            assert_close(found.logits.float().flatten(), wanted.logits.float().flatten(), limit, text)
