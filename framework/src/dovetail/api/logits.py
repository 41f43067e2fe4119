"""The interface of logits processors, which change the logits before a token is chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LogitsProcessorContext:
    """Facts about the engine for a processor.

    Attributes:
        vocab_size: size of the logits' vocabulary.
        device: of the logits.
    """

    vocab_size: int
    device: torch.device


@dataclass(eq=False)
class LogitsRow:
    """One sequence that uses a processor. The object is the same from step to step, until the sequence ends.

    Attributes:
        id: of the sequence.
        args: the request's arguments, validated by the card's ``config`` if it has one.
        tokens: prompt and output so far; must not be changed. Each step adds one token.
        num_prompt_tokens: how many of them are the prompt.
        state: the processor's own data, initially None. The engine does not read or change it, also not when the
            sequence is preempted and recomputed.
    """

    id: str
    args: Mapping[str, Any]
    tokens: Sequence[int]
    num_prompt_tokens: int
    state: Any = field(default=None)

    @property
    def output(self) -> Sequence[int]:
        """A copy of the output so far."""
        return self.tokens[self.num_prompt_tokens :]


class LogitsProcessor(ABC):
    """Changes the logits of sequences that use it. Created in the engine's process when it is first needed, and used by
    one thread.

    It runs before every other change, so what a request or a grammar forbids stays forbidden. Sequences with a
    processor get no drafts (speculative decoding), and their next step waits until their newest token has reached the
    host.

    An exception ends the sequences of that call with an error; others continue.
    """

    def __init__(self, context: LogitsProcessorContext) -> None:
        self.context = context

    @abstractmethod
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        """Called in each step with sequences that use it, once for every token.

        Args:
            logits: float32 ``[L, V]`` on the device, one line for each of ``rows``, in order; may be changed in place.
                Minus infinity forbids a token.
            rows: the sequences, one for each line.

        Returns:
            The new logits, of the same shape; None if they were changed in place.
        """
