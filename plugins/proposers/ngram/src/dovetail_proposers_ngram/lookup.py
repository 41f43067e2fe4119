"""Prompt lookup decoding (A. Saxena, 2023): the tokens that followed the same n-gram before are expected to follow
it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from dovetail.api import DraftRequest, Proposer, ProposerContext
from dovetail_proposers_ngram.config import LookupConfig
from dovetail_proposers_ngram.index import NOWHERE, NgramIndex


class PromptLookup(Proposer):
    """Searches the end of each sequence in the sequence itself."""

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        assert isinstance(config, LookupConfig)
        self.config = config
        self._indices: dict[str, NgramIndex] = {}

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [self._continue(sequence) for sequence in sequences]

    def forget(self, ids: Iterable[str]) -> None:
        for id in ids:
            self._indices.pop(id, None)

    def _continue(self, sequence: DraftRequest) -> list[int]:
        index = self._indices.get(sequence.id)
        if index is None:
            index = self._indices[sequence.id] = NgramIndex(
                self.config.prompt_lookup_min, self.config.prompt_lookup_max
            )
        tokens = sequence.tokens
        index.extend(tokens)
        place = index.find(tokens)
        if place == NOWHERE:
            return []
        return follow(tokens, place, sequence.max_tokens)


def follow(tokens: Sequence[int], place: int, count: int) -> list[int]:
    """``count`` tokens from a place on. If the sequence ends before, the result is repeated: the latest occurrence
    may be directly before the end, in a list or a loop, whose period then repeats.
    """
    found = list(tokens[place : place + count])
    period = len(found)
    while len(found) < count:
        found.append(found[-period])
    return found
