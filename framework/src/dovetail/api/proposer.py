"""The interface of proposers, which draft the next tokens of sequences (speculative decoding).

The engine computes the draft tokens in one pass with the newest token. It samples its own token at each position and
accepts the guesses up to the first difference. So drafts never change an output: a wrong one costs time, a right one
saves a step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dovetail.api.documented import DocumentedModel


@dataclass(frozen=True)
class ProposerContext:
    """Facts about the engine for a proposer.

    Attributes:
        vocab_size: proposed token ids must be below this.
        max_seqs: maximum number of running sequences.
        num_tokens: maximum length of a draft.
    """

    vocab_size: int
    max_seqs: int
    num_tokens: int


@dataclass(frozen=True)
class DraftRequest:
    """A sequence that can get a draft.

    Attributes:
        id: the same from call to call.
        tokens: prompt and output so far; must not be changed. Between calls with the same id they only grow, by one
            token or by many. Not every sequence is in every call.
        max_tokens: maximum number of tokens to propose, at least 1.
    """

    id: str
    tokens: Sequence[int]
    max_tokens: int


class Proposer(ABC):
    """Drafts the next tokens of sequences. Created once in the engine's process, and used by one thread.

    An exception turns speculation off until the engine is restarted; requests continue without it.

    Args:
        config: an instance of the model that the card's ``config`` names.
        context: of the engine.
    """

    @abstractmethod
    def __init__(self, config: BaseModel, context: ProposerContext) -> None: ...

    @abstractmethod
    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        """Called before each step, which waits for it, with all running sequences that can get a draft (at least one).

        Returns:
            For each sequence, in order, the proposed next tokens: at most :attr:`DraftRequest.max_tokens`; empty for no
                draft.
        """

    @abstractmethod
    def forget(self, ids: Iterable[str]) -> None:
        """These sequences have ended. The list may include sequences that were never passed to :meth:`propose`."""


class DraftOptions(DocumentedModel):
    """The keys of ``--speculative-config`` for a draft model. They mean the same as the flags with these names.
    Without ``dtype``, the main model's flag applies to both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    revision: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    load_format: str | None = None
    hf_overrides: dict[str, Any] | None = None
    max_model_len: int | None = Field(default=None, ge=2)
