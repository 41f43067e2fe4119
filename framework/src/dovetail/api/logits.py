"""The contract of logits processors, which change what the model says of the next token before one is chosen."""

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
    """What a processor may know of the engine.

    Attributes:
        vocab_size: tokens that the logits are of.
        device: where the logits are.
    """

    vocab_size: int
    device: torch.device


@dataclass(eq=False)
class LogitsRow:
    """One sequence that asks for a processor. The object is the same from step to step, until the sequence ends.

    Attributes:
        id: the sequence's.
        args: what the request says, checked by the card's ``config`` if it has one.
        tokens: prompt and output so far, not to be changed. One token comes with each step.
        num_prompt_tokens: how many of them are the prompt.
        state: the processor's own; None at first. The engine never looks at it, nor changes it: not when the sequence loses its place and is computed
            anew, either.
    """

    id: str
    args: Mapping[str, Any]
    tokens: Sequence[int]
    num_prompt_tokens: int
    state: Any = field(default=None)

    @property
    def output(self) -> Sequence[int]:
        """The output so far, copied."""
        return self.tokens[self.num_prompt_tokens :]


class LogitsProcessor(ABC):
    """Changes logits of the sequences that ask for it. Made once in the engine's process, when it is first asked for, and used by one thread.

    It comes before every other change: what a request forbids, or a grammar, stays forbidden. Sequences with a processor are not guessed ahead
    (speculative decoding), and their next step waits until their newest token has reached the host.

    What it raises ends the sequences of that call with an error; others go on.
    """

    def __init__(self, context: LogitsProcessorContext) -> None:
        self.context = context

    @abstractmethod
    def apply(self, logits: Tensor, rows: Sequence[LogitsRow]) -> Tensor | None:
        """Called in each step in which some sequence that asks for it gets a token, once for every token.

        Args:
            logits: float32 ``[L, V]`` on the device, one line for each of ``rows``, in order; may be changed in place. Minus infinity forbids a token.
            rows: the sequences; each line is of another one.

        Returns:
            The logits to go on with, of the same shape; None where they were changed in place.
        """
