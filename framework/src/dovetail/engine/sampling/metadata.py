"""Host-side flags of a batch: which sampling operations a step must run, and for which lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np

from dovetail.engine.engine_request import Request
from dovetail.engine.request.params import SamplingParams

MAX_SMALL_TOP_K = 64
"""A top-k up to this size is found in a small part of the vocabulary."""

ALL_LOGPROBS = 2**31 - 1
"""``SamplingMetadata.logprobs`` for the whole vocabulary."""

DrawMethod = Literal["greedy", "full", "small_top_k", "filtered"]
"""How a line's token is chosen: the likeliest one; sampled from the whole vocabulary; sampled from the few likeliest;
sampled from the vocabulary by rank.
"""


@dataclass(frozen=True, eq=False)
class SamplingFlags:
    """The sampling features that one request uses. Equal flags are one object, so hundreds of them are compared by
    identity.

    Attributes:
        small_top_k: its top-k where ``method`` is "small_top_k", otherwise 0.
        has_large_top_k: whether it has a top-k where ``method`` is "filtered".
        repetition, presence, frequency: whether it has this penalty.
        logprobs: how many, :data:`ALL_LOGPROBS` for all; -1 for none, 0 for the sampled token's only.
        edits: whether :func:`~dovetail.engine.sampling.edits.build_logit_edits` may have work for it.
    """

    method: DrawMethod
    small_top_k: int
    has_large_top_k: bool
    min_p: bool
    repetition: bool
    presence: bool
    frequency: bool
    is_biased: bool
    logprobs: int
    edits: bool

    @property
    def is_penalised(self) -> bool:
        return self.repetition or self.presence or self.frequency


@dataclass(frozen=True, eq=False)
class LineGroup:
    """Some lines of a step.

    Attributes:
        lines: int64, ascending; None for all.
    """

    lines: np.ndarray | None = None


@dataclass(frozen=True)
class SamplingMetadata:
    """The sampling features that the lines of a step use. ``SamplingMetadata()`` is greedy, and
    ``SamplingMetadata(has_random=True)`` is any mixture of greedy and temperature, as the device tables say. Both work
    for any number of lines and in a captured graph.

    Attributes:
        has_random: some line is not greedy.
        has_filters: some line has a top-k, top-p or min-p.
        penalties: some line has a penalty.
        bias: some line has a logit bias or a list of allowed tokens.
        logprobs: the largest number requested, 0 for the sampled token's only, :data:`ALL_LOGPROBS` for the vocabulary;
            None for none.
        size: number of lines that it was made for; None if any will do.
        full, small_top_k, filtered: lines that are sampled this way, see :data:`DrawMethod`; None if there are none.
        width: the largest top-k of the small_top_k lines.
        has_large_top_k: some filtered line has a top-k.
        min_p: some full line has a min-p.
        repetition, presence, frequency: some line has this penalty.
        penalised_lines, biased_lines: lines.
    """

    has_random: bool = False
    has_filters: bool = False
    penalties: bool = False
    bias: bool = False
    logprobs: int | None = None
    size: int | None = None
    full: LineGroup | None = None
    small_top_k: LineGroup | None = None
    filtered: LineGroup | None = None
    width: int = 0
    has_large_top_k: bool = False
    min_p: bool = False
    repetition: bool = False
    presence: bool = False
    frequency: bool = False
    penalised_lines: LineGroup | None = None
    biased_lines: LineGroup | None = None

    @property
    def is_simple(self) -> bool:
        """Whether all lines are greedy or only have a temperature."""
        return not (self.has_filters or self.penalties or self.bias) and self.logprobs is None


_flags_by_request: WeakKeyDictionary[Request, SamplingFlags] = WeakKeyDictionary()
_intern_flags = lru_cache(maxsize=4096)(SamplingFlags)


def get_sampling_flags(request: Request) -> SamplingFlags:
    """The flags of a request, computed once."""
    flags = _flags_by_request.get(request)
    if flags is None:
        flags = _flags_by_request[request] = _build_flags(request)
    return flags


def _build_flags(request: Request) -> SamplingFlags:
    params = request.params
    method = _choose_method(params)
    return _intern_flags(
        method=method,
        small_top_k=params.top_k if method == "small_top_k" else 0,
        has_large_top_k=method == "filtered" and params.top_k > 0,
        min_p=method != "greedy" and params.min_p > 0,
        repetition=params.repetition_penalty != 1,
        presence=params.presence_penalty != 0,
        frequency=params.frequency_penalty != 0,
        is_biased=bool(params.logit_bias) or params.allowed_token_ids is not None,
        logprobs=-1 if params.logprobs is None else ALL_LOGPROBS if params.logprobs < 0 else params.logprobs,
        edits=bool(request.bad_words) or params.min_tokens > 0 or bool(request.logits_processors),
    )


def _choose_method(params: SamplingParams) -> DrawMethod:
    if params.greedy:
        return "greedy"
    if 0 < params.top_k <= MAX_SMALL_TOP_K:
        return "small_top_k"
    return "filtered" if params.top_k > 0 or params.top_p < 1 else "full"


def build_sampling_metadata(requests: Iterable[Request]) -> SamplingMetadata:
    """Build the metadata of a step's lines.

    Args:
        requests: one for each line of the logits, in order. A request that is sampled at several positions is repeated.
    """
    return _build_metadata(tuple(map(get_sampling_flags, requests)))


@lru_cache(maxsize=16)
def _build_metadata(lines: tuple[SamplingFlags, ...]) -> SamplingMetadata:
    """Cached, because consecutive steps mostly have the same flags."""
    kinds = set(lines)

    def group(has_flag: Callable[[SamplingFlags], bool]) -> LineGroup | None:
        some = {kind for kind in kinds if has_flag(kind)}
        if not some:
            return None
        if len(some) == len(kinds):
            return LineGroup()
        return LineGroup(np.array([i for i, flags in enumerate(lines) if flags in some], np.int64))

    penalised_lines, biased_lines = group(lambda a: a.is_penalised), group(lambda a: a.is_biased)
    logprobs = max((kind.logprobs for kind in kinds), default=-1)
    return SamplingMetadata(
        has_random=any(kind.method != "greedy" for kind in kinds),
        has_filters=any(kind.method in ("small_top_k", "filtered") or kind.min_p for kind in kinds),
        penalties=penalised_lines is not None,
        bias=biased_lines is not None,
        logprobs=None if logprobs < 0 else logprobs,
        size=len(lines),
        full=group(lambda a: a.method == "full"),
        small_top_k=group(lambda a: a.method == "small_top_k"),
        filtered=group(lambda a: a.method == "filtered"),
        width=max((kind.small_top_k for kind in kinds), default=0),
        has_large_top_k=any(kind.has_large_top_k for kind in kinds),
        min_p=any(kind.min_p and kind.method == "full" for kind in kinds),
        repetition=any(kind.repetition for kind in kinds),
        presence=any(kind.presence for kind in kinds),
        frequency=any(kind.frequency for kind in kinds),
        penalised_lines=penalised_lines,
        biased_lines=biased_lines,
    )
