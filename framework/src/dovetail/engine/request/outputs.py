"""Results of a generation request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error"]


class RequestOutputKind(IntEnum):
    """The content of a request's outputs while it runs."""

    CUMULATIVE = 0
    """Everything so far."""
    DELTA = 1
    """Only what is new since the output before."""
    FINAL_ONLY = 2
    """One output, at the end."""


@dataclass(slots=True)
class Logprob:
    """The log-probability (natural) of one token in the model's own distribution, before temperature and any
    restriction; or another value, as ``logprobs_mode`` says.

    Attributes:
        rank: 1 for the likeliest token of the vocabulary.
        decoded_token: its text; None if detokenization is off.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


PositionLogprobs = dict[int, Logprob]
"""Token id → logprob at one position: the actual token, and the likeliest ones."""


@dataclass(slots=True)
class Delta:
    """The output of one step for one completion.

    Attributes:
        index: of the completion, among the request's ``n``.
        text: new text; never half a character, and never text that may be part of a stop string.
        token_ids: new tokens.
        finish_reason: set on the last delta of this completion.
        stop_reason: the stop string or stop token id that ended it, if one did; None for end-of-sequence.
        error: the error, if ``finish_reason`` is ``error``.
        is_request_error: the error is the request's own, not the engine's.
        timing: on a completion's first delta, the seconds in the queue, and the seconds of its prefill.
        logprobs: one entry for each of ``token_ids``, if requested.
        prompt_logprobs: on the first delta of completion 0, one entry for each token of the prompt (None for the
            first), if requested.
        cached_tokens: on a completion's first delta, prompt tokens that were found in the prefix cache. The request's
            number is that of completion 0; the others find the blocks that it computed.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None
    logprobs: list[PositionLogprobs] | None = None
    prompt_logprobs: Sequence[PositionLogprobs | None] | None = None
    cached_tokens: int = 0
    is_request_error: bool = False
    timing: tuple[float, float] | None = None


@dataclass(slots=True)
class RequestMetrics:
    """Points in time of a request, in seconds since the epoch. Their differences are measured with the monotonic clock.

    Attributes:
        arrival_time: the request arrived in the API.
        first_scheduled_time: the first step with a part of its prompt started.
        first_token_time, last_token_time: the first and the newest of its tokens were returned.
        finished_time: the last of its completions ended.
        time_in_queue: seconds until its first step.
        num_generation_tokens: tokens of all its completions so far.
    """

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    finished_time: float | None = None
    time_in_queue: float | None = None
    num_generation_tokens: int = 0

    @property
    def first_token_latency(self) -> float | None:
        """Seconds from arrival to the first token."""
        return None if self.first_token_time is None else self.first_token_time - self.arrival_time


@dataclass(slots=True, repr=False)
class CompletionOutput:
    """One completion of a prompt.

    Attributes:
        text: empty if detokenization is off.
        cumulative_logprob: sum over the tokens, if logprobs were requested.
        logprobs: one entry for each of ``token_ids``, if requested.
        stop_reason: the stop string or stop token id that ended it, if one did.
        error: the error, if ``finish_reason`` is ``error``.
    """

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[PositionLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error: str | None = None

    def __repr__(self) -> str:
        return _readable(self, always=("index", "text", "token_ids", "finish_reason"))


@dataclass(slots=True, repr=False)
class RequestOutput:
    """A prompt and its completions.

    Attributes:
        prompt: its text; None if token ids were given.
        num_cached_tokens: prompt tokens that were found in the prefix cache.
        prompt_logprobs: one entry for each token of the prompt (None for the first, which follows nothing), if
            requested.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    prompt_logprobs: list[PositionLogprobs | None] | None = None

    def __repr__(self) -> str:
        return _readable(self, always=("request_id", "prompt", "prompt_token_ids", "outputs", "finished"))


SHOWN_ITEMS = 12
"""Maximum number of tokens of a list that a repr shows."""


def _readable(output: CompletionOutput | RequestOutput, always: tuple[str, ...]) -> str:
    """A readable repr: long lists are shortened, and fields that were not requested are left out."""
    parts = []
    for entry in fields(output):
        value = getattr(output, entry.name)
        if entry.name in always or value not in (None, 0, []):
            parts.append(f"{entry.name}={_short(value)}")
    return f"{type(output).__name__}({', '.join(parts)})"


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > SHOWN_ITEMS:
        return f"[{', '.join(map(repr, value[: SHOWN_ITEMS - 2]))}, … {len(value)} in all]"
    return repr(value)
