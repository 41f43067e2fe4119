"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(slots=True)
class Delta:
    """What one step added to one completion.

    Attributes:
        index: of the completion, among the request's ``n``.
        text: new text; never half a character, and never text that a stop string may still swallow.
        token_ids: new tokens.
        finish_reason: set on the last delta of this completion.
        stop_reason: the stop string or stop token id that ended it, if one did; None for end-of-sequence.
        error: what went wrong, if ``finish_reason`` is ``error``.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None


@dataclass(slots=True)
class RequestMetrics:
    """Times in seconds on the monotonic clock."""

    arrival: float
    first_token: float | None = None
    finished: float | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a prompt."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


@dataclass(slots=True)
class RequestOutput:
    """A prompt and its completions."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: None = None
