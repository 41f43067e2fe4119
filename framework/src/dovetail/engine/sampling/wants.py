"""What the lines of a step ask for, known on the host, so that a step runs only the operations that some line needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np

from dovetail.engine.engine_request import Request
from dovetail.engine.request.params import SamplingParams

FEW = 64
"""Up to so many tokens of a top-k are found by looking at a small part of the vocabulary."""

EVERY = 2**31 - 1
"""``Wants.logprobs`` for the whole vocabulary."""

How = Literal["greedy", "free", "few", "ranked"]
"""How a line gets its token: the likeliest; a draw from the whole vocabulary; a draw from the few likeliest; a draw from the
vocabulary by rank."""


@dataclass(frozen=True, eq=False)
class Asks:
    """What one request asks of the sampler. Equal ones are one object, so that hundreds of them are compared by identity alone.

    Attributes:
        few: its top-k where ``how`` is "few", otherwise 0.
        ranked_k: whether it has a top-k where ``how`` is "ranked".
        repetition, presence, frequency: whether it has this penalty.
        logprobs: how many, :data:`EVERY` for all; -1 for none at all, 0 for the sampled token's alone.
        edits: whether :func:`~dovetail.engine.sampling.edits.host_edits` may have to do something for it.
    """

    how: How
    few: int
    ranked_k: bool
    min_p: bool
    repetition: bool
    presence: bool
    frequency: bool
    biased: bool
    logprobs: int
    edits: bool

    @property
    def penalised(self) -> bool:
        return self.repetition or self.presence or self.frequency


@dataclass(frozen=True, eq=False)
class Group:
    """Some lines of a step.

    Attributes:
        lines: int64, ascending; None for all.
    """

    lines: np.ndarray | None = None


@dataclass(frozen=True)
class Wants:
    """What the lines of a step ask for. ``Wants()`` is greedy, and ``Wants(draws=True)`` any mixture of greedy and temperature, where the device tables
    alone decide; both need no number of lines and suit a captured graph.

    Attributes:
        draws: some line is not greedy.
        filters: some line has a top-k, top-p or min-p.
        penalties: some line has a penalty.
        bias: some line has a logit bias or a list of allowed tokens.
        logprobs: the largest number asked for, 0 for the sampled token's alone, :data:`EVERY` for the vocabulary; None for none at all.
        size: number of lines that it was made for; None if any will do.
        free, few, ranked: lines that draw so, see :data:`How`; None if there are none.
        width: the largest top-k of the few.
        ranked_k: some ranked line has a top-k.
        min_p: some free line has a min-p.
        repetition, presence, frequency: some line has this penalty.
        penalised, biased: lines.
    """

    draws: bool = False
    filters: bool = False
    penalties: bool = False
    bias: bool = False
    logprobs: int | None = None
    size: int | None = None
    free: Group | None = None
    few: Group | None = None
    ranked: Group | None = None
    width: int = 0
    ranked_k: bool = False
    min_p: bool = False
    repetition: bool = False
    presence: bool = False
    frequency: bool = False
    penalised: Group | None = None
    biased: Group | None = None

    @property
    def plain(self) -> bool:
        """Whether nothing but likeliest tokens and draws with a temperature is wanted."""
        return not (self.filters or self.penalties or self.bias) and self.logprobs is None


_known: WeakKeyDictionary[Request, Asks] = WeakKeyDictionary()
_one = lru_cache(maxsize=4096)(Asks)


def asks_of(request: Request) -> Asks:
    """What a request asks for; found out once in its life."""
    asks = _known.get(request)
    if asks is None:
        asks = _known[request] = _asks(request)
    return asks


def _asks(request: Request) -> Asks:
    params = request.params
    how = _how(params)
    return _one(
        how=how,
        few=params.top_k if how == "few" else 0,
        ranked_k=how == "ranked" and params.top_k > 0,
        min_p=how != "greedy" and params.min_p > 0,
        repetition=params.repetition_penalty != 1,
        presence=params.presence_penalty != 0,
        frequency=params.frequency_penalty != 0,
        biased=bool(params.logit_bias) or params.allowed_token_ids is not None,
        logprobs=-1 if params.logprobs is None else EVERY if params.logprobs < 0 else params.logprobs,
        edits=bool(request.bad_words) or params.min_tokens > 0,
    )


def _how(params: SamplingParams) -> How:
    if params.greedy:
        return "greedy"
    if 0 < params.top_k <= FEW:
        return "few"
    return "ranked" if params.top_k > 0 or params.top_p < 1 else "free"


def wants_of(requests: Iterable[Request]) -> Wants:
    """What a step's lines ask for.

    Args:
        requests: one for each line of the logits, in order; a request that is sampled at several positions comes as many times.
    """
    return _wants(tuple(map(asks_of, requests)))


@lru_cache(maxsize=16)
def _wants(lines: tuple[Asks, ...]) -> Wants:
    """Steps that follow each other mostly ask for the same."""
    kinds = set(lines)

    def group(asked: Callable[[Asks], bool]) -> Group | None:
        some = {kind for kind in kinds if asked(kind)}
        if not some:
            return None
        if len(some) == len(kinds):
            return Group()
        return Group(np.array([i for i, asks in enumerate(lines) if asks in some], np.int64))

    penalised, biased = group(lambda a: a.penalised), group(lambda a: a.biased)
    logprobs = max((kind.logprobs for kind in kinds), default=-1)
    return Wants(
        draws=any(kind.how != "greedy" for kind in kinds),
        filters=any(kind.how in ("few", "ranked") or kind.min_p for kind in kinds),
        penalties=penalised is not None,
        bias=biased is not None,
        logprobs=None if logprobs < 0 else logprobs,
        size=len(lines),
        free=group(lambda a: a.how == "free"),
        few=group(lambda a: a.how == "few"),
        ranked=group(lambda a: a.how == "ranked"),
        width=max((kind.few for kind in kinds), default=0),
        ranked_k=any(kind.ranked_k for kind in kinds),
        min_p=any(kind.min_p and kind.how == "free" for kind in kinds),
        repetition=any(kind.repetition for kind in kinds),
        presence=any(kind.presence for kind in kinds),
        frequency=any(kind.frequency for kind in kinds),
        penalised=penalised,
        biased=biased,
    )
