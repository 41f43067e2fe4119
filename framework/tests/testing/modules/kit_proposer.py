"""Proposers: a right one, and ways to get it wrong."""

from collections.abc import Iterable, Sequence
from typing import cast

from pydantic import BaseModel, ConfigDict

from dovetail.api import DraftRequest, Proposer, ProposerContext


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step: int = 1


class LooseOptions(BaseModel):
    step: int = 1


class Right(Proposer):
    """Guesses the newest token again."""

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        self.context = context

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [[s.tokens[-1]] * s.max_tokens for s in sequences]

    def forget(self, ids: Iterable[str]) -> None:
        """Nothing is kept."""


class Beyond(Right):
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [[s.tokens[-1] + 1] for s in sequences]


class Eager(Right):
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [[0] * self.context.num_tokens for _ in sequences]


class Silent(Right):
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [[0] for s in sequences if len(s.tokens) > 5]


class Fractional(Right):
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return cast("list[list[int]]", [[0.5] for _ in sequences])


class Meddling(Right):
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        for sequence in sequences:
            cast("list[int]", sequence.tokens).append(0)
        return [[] for _ in sequences]


class Strict(Right):
    """Knows every sequence from its first call to its last."""

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        super().__init__(config, context)
        self.known: set[str] = set()

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        self.known |= {s.id for s in sequences}
        return [[] for _ in sequences]

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            self.known.remove(id)


class Remembering(Right):
    """Never forgets, and trusts its memory of a sequence's length."""

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        super().__init__(config, context)
        self.places: dict[str, int] = {}

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        found = [[s.tokens[self.places.get(s.id, 0)]] for s in sequences]
        self.places |= {s.id: len(s.tokens) - 1 for s in sequences}
        return found


class NoProposer:
    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        pass
