"""Logits processors: right ones, and ways to get it wrong."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dovetail.api import LogitsProcessor, LogitsProcessorContext, LogitsRow


class Arguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    token: int = 1


class LooseArguments(BaseModel):
    token: int = 1


class Right(LogitsProcessor):
    """Counts its calls for a sequence, and takes as much from one token."""

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        for line, row in enumerate(rows):
            row.state = (row.state or 0) + 1
            logits[line, row.args["token"]] -= row.state
        return None


class Returning(LogitsProcessor):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        return logits * 2


class Shared(Right):
    """Keeps one count for all."""

    def __init__(self, context: LogitsProcessorContext) -> None:
        super().__init__(context)
        self.count = 0

    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        self.count += len(rows)
        return logits - self.count * torch.arange(logits.shape[1])


class Narrow(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        return logits[:, :-1]


class Halved(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        return logits.half()


class Infinite(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        return logits / 0


class Meddling(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        cast("list[int]", rows[0].tokens).append(0)
        return None


class Wordy(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Any:
        return "logits"


class Failing(Right):
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        raise KeyError("token")


class NoProcessor:
    def __init__(self, context: LogitsProcessorContext) -> None:
        pass
