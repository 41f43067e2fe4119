"""Converts requests to the engine's sequences, and the engine's outputs to text deltas, for all requests together."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.messages import ImageInput, NewRequest, Sibling, TokenOutput
from dovetail.engine.output.best_of import BestOfCollector
from dovetail.engine.output.completions import Completion
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.parameter_rules import MAX_SEED
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.text.bad_words import encode_bad_words
from dovetail.engine.text.stop_strings import StopAutomaton, build_automaton
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.utils.panics import reraise_control_flow

logger = logging.getLogger("dovetail.engine")

PREPARED_AT_ONCE_CHARS = 2048
"""Texts of so many characters together, or eight times as many token ids, are prepared in about 2 ms; for more, use another thread."""


class Prepared(NamedTuple):
    """What is made of a request once for all of its completions.

    Attributes:
        params: of each completion, checked.
    """

    params: SamplingParams
    stops: StopAutomaton | None = None
    bad_words: list[list[int]] = []


@dataclass(slots=True)
class _Group:
    """A request's unfinished completions, and its best-of collector if it has one."""

    id: str
    best_of: BestOfCollector | None
    running: set[str] = field(default_factory=set)


class OutputProcessor:
    """Converts requests to the engine's sequences, and the engine's outputs to text deltas.

    Args:
        tokenizer: None if prompts and outputs are token ids only. Outputs then have no text, and requests that need
            texts are refused.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self._completions: dict[str, tuple[Completion, _Group]] = {}
        self._groups: dict[str, _Group] = {}

    def add(
        self,
        request_id: str,
        prompt_token_ids: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        adapter: str | None = None,
        prepared: Prepared | None = None,
        images: list[ImageInput] | None = None,
    ) -> NewRequest:
        """The message for the engine, with a sequence for each of the ``n`` completions, or ``best_of`` if that is
        larger.

        Args:
            prepared: what :meth:`prepare` made of these parameters, if it was called before.
            priority, cache_salt, adapter, images: see :class:`~dovetail.engine.messages.NewRequest`.

        Raises:
            RequestError: the id is in use, the parameters are not valid (they may have been changed since they were
                made), or they need a tokenizer and there is none.
        """
        if request_id in self._groups:
            raise RequestError(f"a request with the id {request_id!r} is running", "give each request an id of its own")
        best_of = BestOfCollector(params) if params.num_sequences > params.n else None
        group = _Group(request_id, best_of)
        child, stops, bad_words = prepared or self.prepare(params)
        names = [f"{request_id}#{index}" for index in range(params.num_sequences)]
        siblings = [
            # Completions of one seeded request differ from each other, and each is repeatable.
            Sibling(name, None if params.seed is None else _child_seed(params.seed, index))
            for index, name in enumerate(names[1:], 1)
        ]
        for index, name in enumerate(names):
            self._completions[name] = Completion(index, child, self.tokenizer, prompt_token_ids, stops), group
        group.running = set(names)
        self._groups[request_id] = group
        return NewRequest(
            names[0],
            prompt_token_ids,
            child,
            priority,
            cache_salt,
            adapter,
            bad_words,
            siblings=siblings,
            images=images,
        )

    def prepare(self, params: SamplingParams) -> Prepared:
        """Prepare the stop strings, bad words and lists of a request. The time grows with their length, and other threads
        can work meanwhile; see :func:`prepares_quickly`.

        Raises:
            RequestError: a parameter is not valid, needs a tokenizer and there is none, or a bad word has no tokens.
        """
        child = _child(params)
        if self.tokenizer is not None:
            stops = build_automaton(params.stop) if params.stop else None
            bad_words = encode_bad_words(params.bad_words, self.tokenizer) if params.bad_words else []
            return Prepared(child, stops, bad_words)
        for name, given in (("stop", params.stop), ("bad_words", params.bad_words)):
            if given:
                raise RequestError(
                    f"{name} is {given!r}, which needs the tokenizer, and there is none (skip_tokenizer_init)",
                    "say it in token ids, such as stop_token_ids",
                    param=name,
                )
        return Prepared(child)

    def process(self, outputs: list[TokenOutput]) -> tuple[dict[str, list[Delta]], list[str]]:
        """Returns deltas by request, and the engine's sequences to abort because a stop string ended them."""
        deltas: dict[str, list[Delta]] = {}
        aborts: list[str] = []
        for output in outputs:
            found = self._completions.get(output.id)
            if found is None:  # aborted while this was on its way
                continue
            completion, group = found
            delta = self._build_delta(completion, output)
            if delta.finish_reason is not None:
                if output.finish_reason is None:
                    aborts.append(output.id)
                self._forget(output.id, group)
            if group.best_of is None:
                deltas.setdefault(group.id, []).append(delta)
            elif best := group.best_of.add(delta):
                deltas[group.id] = best
        return deltas, aborts

    @staticmethod
    def _build_delta(completion: Completion, output: TokenOutput) -> Delta:
        """What an output adds to a completion. If that cannot be told, the completion ends with an error, alone."""
        try:
            return completion.build_delta(output)
        except BaseException as error:
            reraise_control_flow(error)
            logger.error("the output of request %s cannot be converted", output.id, exc_info=error)
            return Delta(completion.index, "", [], "error", error="the output could not be converted to text")

    def _forget(self, child_id: str, group: _Group) -> None:
        del self._completions[child_id]
        group.running.discard(child_id)
        if not group.running:
            del self._groups[group.id]

    def is_unfinished(self, request_id: str) -> bool:
        return request_id in self._groups

    def abort(self, request_id: str) -> list[str]:
        """Remove a request. Returns the engine's sequences to abort."""
        group = self._groups.pop(request_id, None)
        children = sorted(group.running) if group else []
        for child in children:
            del self._completions[child]
        return children


def prepares_quickly(params: SamplingParams) -> bool:
    """Whether :meth:`OutputProcessor.prepare` takes no longer than an event loop may be held up."""
    if not (params.stop or params.bad_words or params.allowed_token_ids):  # nearly always
        return True
    size = sum(map(len, params.stop)) + sum(map(len, params.bad_words)) + len(params.allowed_token_ids or ()) // 8
    return size <= PREPARED_AT_ONCE_CHARS


def _child(params: SamplingParams) -> SamplingParams:
    """The parameters of each completion; what differs is in the message."""
    logprobs = params.logprobs
    if params.num_sequences > params.n and logprobs is None:
        logprobs = 0  # those of the chosen tokens decide which completions are the best
    return msgspec.structs.replace(
        params,
        n=1,
        best_of=None,
        logprobs=logprobs,
    )


def _child_seed(seed: int, index: int) -> int:
    """The seed of a further completion. The first has the request's own; the others' do not meet those of other requests, which often have neighbouring seeds."""
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) & MAX_SEED
