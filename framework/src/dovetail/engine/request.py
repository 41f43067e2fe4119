"""A request as the engine knows it: tokens in, tokens out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dovetail.engine.outputs import FinishReason
from dovetail.engine.params import SamplingParams


@dataclass(eq=False)
class Request:
    """One sequence. A prompt with ``n`` completions is ``n`` requests.

    Attributes:
        tokens: prompt and output; the model computes those past ``computed``.
        prompt_len: how many of them are the prompt.
        computed: tokens whose keys and values are in the cache.
        blocks: KV-cache blocks, in order.
        row: in the persistent batch, or -1 while waiting.
        end_ids: tokens that end it: end-of-sequence and the request's own stop tokens.
        max_len: tokens at which it ends, prompt included.
    """

    id: str
    tokens: list[int]
    params: SamplingParams
    prompt_len: int
    max_len: int
    eos_ids: frozenset[int]
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    row: int = -1
    generator: Any = None

    @property
    def output_len(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def pending(self) -> int:
        """Tokens still to be computed."""
        return len(self.tokens) - self.computed

    @cached_property
    def end_ids(self) -> frozenset[int]:
        stops = frozenset(self.params.stop_token_ids)
        return stops if self.params.ignore_eos else stops | self.eos_ids

    def finish_reason(self) -> tuple[FinishReason | None, int | None]:
        """Whether the newest token ends the request: the reason, and the stop token if it was one of the request's own."""
        token = self.tokens[-1]
        if self.output_len >= self.params.min_tokens and token in self.end_ids:
            own = token in self.params.stop_token_ids and token not in self.eos_ids
            return "stop", token if own else None
        if len(self.tokens) >= self.max_len:
            return "length", None
        return None, None
