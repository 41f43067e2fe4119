"""The contract of proposers, which guess how sequences go on (speculative decoding).

The engine computes the guessed tokens in one pass with the newest one, draws its own token at each of these places, and keeps the guesses as far as
they are what it drew. Guesses thus never change an output: a wrong one costs time, a right one saves a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class ProposerContext:
    """What a proposer may know of the engine.

    Attributes:
        vocab_size: tokens that may be proposed are below this.
        max_seqs: sequences that run at once.
        num_tokens: the most that are ever asked for at a time.
    """

    vocab_size: int
    max_seqs: int
    num_tokens: int


@dataclass(frozen=True)
class DraftRequest:
    """A sequence that could go on with guesses.

    Attributes:
        id: the same from call to call.
        tokens: prompt and output so far, not to be changed. From one call to the next with the same id they only grow, by one token or by many;
            not every sequence is in every call.
        max_tokens: how many tokens to guess, at least 1.
    """

    id: str
    tokens: Sequence[int]
    max_tokens: int


class Proposer(ABC):
    """Guesses how sequences go on. Made once in the engine's process, and used by one thread.

    What it raises turns speculation off until the engine is restarted; requests go on without.

    Args:
        config: an instance of the model that the card's ``config`` names.
        context: of the engine.
    """

    @abstractmethod
    def __init__(self, config: BaseModel, context: ProposerContext) -> None: ...

    @abstractmethod
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        """Called before each step, which waits for it: with every running sequence that may speculate, at least one.

        Returns:
            For each sequence, in order, the tokens that it expects to follow: at most :attr:`DraftRequest.max_tokens`, none where it has no guess.
        """

    @abstractmethod
    def forget(self, ids: Iterable[str]) -> None:
        """These sequences have ended; some of them may never have been seen."""


class DraftOptions(BaseModel):
    """What ``--speculative-config`` may say of the model that a proposer runs. The meanings are those of the flags of the same names; where ``dtype`` is
    not given, that of the main model's flag holds for both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    load_format: str | None = None
    hf_overrides: dict[str, Any] | None = None
    max_model_len: int | None = Field(default=None, ge=2)
