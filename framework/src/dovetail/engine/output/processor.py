"""Converts requests to the engine's sequences, and the engine's outputs to text deltas, for all requests together."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, field

import msgspec

from dovetail.api.errors import RequestError
from dovetail.engine.messages import NewRequest, TokenOutput
from dovetail.engine.output.best_of import BestOfCollector
from dovetail.engine.output.completions import Completion
from dovetail.engine.request.outputs import Delta
from dovetail.engine.request.parameter_rules import MAX_SEED
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.text.bad_words import encode_bad_words
from dovetail.engine.text.tokenizer import Tokenizer
from dovetail.utils.panics import reraise_control_flow

logger = logging.getLogger("dovetail.engine")


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
    ) -> list[NewRequest]:
        """The sequences of a request: one for each of its ``n`` completions, or ``best_of`` if that is larger.

        Args:
            priority, cache_salt, adapter: see :class:`~dovetail.engine.messages.NewRequest`.

        Raises:
            RequestError: the id is in use, the parameters are not valid (they may have been changed since they were
                made), or they need a tokenizer and there is none.
        """
        if request_id in self._groups:
            raise RequestError(f"a request with the id {request_id!r} is running", "give each request an id of its own")
        best_of = BestOfCollector(params) if params.num_sequences > params.n else None
        group = _Group(request_id, best_of)
        completions: dict[str, tuple[Completion, _Group]] = {}
        sequences: list[NewRequest] = []
        bad_words: list[list[int]] = []
        for index in range(params.num_sequences):
            child = _child(params, index)
            if not index:
                bad_words = self._bad_words(child)
            name = f"{request_id}#{index}"
            completions[name] = Completion(index, child, self.tokenizer, prompt_token_ids), group
            sequences.append(NewRequest(name, prompt_token_ids, child, priority, cache_salt, adapter, bad_words))
        group.running = set(completions)
        self._completions |= completions
        self._groups[request_id] = group
        return sequences

    def _bad_words(self, params: SamplingParams) -> list[list[int]]:
        if self.tokenizer is not None:
            return encode_bad_words(params.bad_words, self.tokenizer) if params.bad_words else []
        for name, given in (("stop", params.stop), ("bad_words", params.bad_words)):
            if given:
                raise RequestError(
                    f"{name} is {given!r}, which needs the tokenizer, and there is none (skip_tokenizer_init)",
                    "say it in token ids, such as stop_token_ids",
                    param=name,
                )
        return []

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


def _child(params: SamplingParams, index: int) -> SamplingParams:
    """The parameters of one completion."""
    logprobs = params.logprobs
    if params.num_sequences > params.n and logprobs is None:
        logprobs = 0  # those of the chosen tokens decide which completions are the best
    return msgspec.structs.replace(
        params,
        n=1,
        best_of=None,
        # Completions of one seeded request differ from each other, and each is repeatable.
        seed=None if params.seed is None else _child_seed(params.seed, index),
        logprobs=logprobs,
        # The prompt is the same for all.
        prompt_logprobs=None if index else params.prompt_logprobs,
    )


def _child_seed(seed: int, index: int) -> int:
    """The seed of one completion. The first has the request's own; the others' do not meet those of other requests, which often have neighbouring seeds."""
    if not index:
        return seed
    digest = hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) & MAX_SEED
