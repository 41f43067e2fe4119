"""Guessing that a token is followed by what followed it the last time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from dovetail.api import DraftRequest, Proposer, ProposerContext
from pydantic import BaseModel

from PLUGIN_MODULE.config import PLUGIN_CLASSConfig


class PLUGIN_CLASSProposer(Proposer):
    """See :class:`dovetail.api.Proposer`."""

    def __init__(self, config: BaseModel, context: ProposerContext) -> None:
        assert isinstance(config, PLUGIN_CLASSConfig)
        self.config = config

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        return [self.guess(sequence) for sequence in sequences]

    def forget(self, ids: Iterable[str]) -> None:
        """Nothing is kept from one call to the next."""

    def guess(self, sequence: DraftRequest) -> list[int]:
        followers = dict(pairwise(sequence.tokens[-self.config.memory :]))
        found: list[int] = []
        token = sequence.tokens[-1]
        while len(found) < sequence.max_tokens and token in followers:
            token = followers[token]
            found.append(token)
        return found
