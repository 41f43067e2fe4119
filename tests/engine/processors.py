"""Logits processors that tests name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dovetail.api import LogitsProcessor, LogitsRow


class Ladder(LogitsProcessor):
    """Forces the token after the newest one; what it was told and has counted shows whether its state is right."""

    calls: list[int] = []

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> None:
        type(self).calls.append(len(rows))
        for line, row in enumerate(rows):
            row.state = (row.state or 0) + 1
            assert row.state == len(row.output) + 1, "a step was seen twice, or never"
            allowed = (row.tokens[-1] + int(row.args.get("step", 1))) % self.context.vocab_size
            logits[line, :allowed] = -torch.inf
            logits[line, allowed + 1 :] = -torch.inf


class Mirror(LogitsProcessor):
    """Gives new logits: the likeliest token becomes the least likely."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor:
        return -logits


class Broken(LogitsProcessor):
    """Fails at the third token."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor:
        if any(len(row.output) == 2 for row in rows):
            raise ZeroDivisionError("secret detail")
        return logits


class Narrow(LogitsProcessor):
    """Gives logits of another shape."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor:
        return logits[:, :-1]


class Spoiler(LogitsProcessor):
    """Divides 0 by 0 from the second token on, in the logits that it was given."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> None:
        for line, row in enumerate(rows):
            if row.output:
                logits[line, 3] = torch.nan


class Healer(LogitsProcessor):
    """Makes numbers of what is none."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor:
        return logits.nan_to_num()


class Unmakable(Mirror):
    def __init__(self, context: object) -> None:
        raise ValueError("no such file")


class Stranger:
    """None at all."""
