"""The growing output of a request: deltas in, outputs for the user out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from dovetail.engine.request.outputs import (
    CompletionOutput,
    Delta,
    PositionLogprobs,
    RequestMetrics,
    RequestOutput,
    RequestOutputKind,
)
from dovetail.engine.request.params import SamplingParams


class OutputAccumulator:
    """Joins the deltas of one request. Its creation is the request's arrival time.

    Args:
        prompt: its text; None if token ids were given.

    Attributes:
        output: the output so far; :meth:`take` joins its texts.
        finished: whether every completion has ended.
    """

    def __init__(
        self, request_id: str, prompt: str | None, prompt_token_ids: list[int], params: SamplingParams
    ) -> None:
        self._kind = params.output_kind
        self._start = time.monotonic()
        self.metrics = RequestMetrics(arrival_time=time.time())
        completions = [CompletionOutput(i) for i in range(params.n)]
        if params.logprobs is not None:
            for completion in completions:
                completion.logprobs, completion.cumulative_logprob = [], 0.0
        self.output = RequestOutput(request_id, prompt, prompt_token_ids, completions, metrics=self.metrics)
        self.finished = False
        self._texts: list[list[str]] = [[] for _ in completions]
        self._taken: list[tuple[int, int]] = [(0, 0)] * params.n  # characters and tokens that were given out as deltas

    def add(self, deltas: Sequence[Delta]) -> None:
        """Add the deltas of a step."""
        now = self.metrics.arrival_time + time.monotonic() - self._start
        for delta in deltas:
            self._add(delta, now)
        self.finished = all(completion.finish_reason for completion in self.output.outputs)
        if self.finished:
            self.output.finished = True
            self.metrics.finished_time = now

    def _add(self, delta: Delta, now: float) -> None:
        completion, metrics = self.output.outputs[delta.index], self.metrics
        if delta.index == 0 and not completion.token_ids:
            self.output.num_cached_tokens = delta.cached_tokens
            self.output.prompt_logprobs = None if delta.prompt_logprobs is None else list(delta.prompt_logprobs)
        if delta.timing is not None and metrics.time_in_queue is None:
            metrics.time_in_queue = delta.timing[0]
            metrics.first_scheduled_time = metrics.arrival_time + delta.timing[0]
        if delta.token_ids:
            metrics.first_token_time = metrics.first_token_time or now
            metrics.last_token_time = now
            metrics.num_generation_tokens += len(delta.token_ids)
        self._texts[delta.index].append(delta.text)
        completion.token_ids += delta.token_ids
        if completion.logprobs is not None and delta.logprobs:
            assert completion.cumulative_logprob is not None
            completion.logprobs += delta.logprobs
            for token, position in zip(delta.token_ids, delta.logprobs, strict=True):
                completion.cumulative_logprob += position[token].logprob
        if delta.finish_reason is not None:
            completion.finish_reason, completion.stop_reason = delta.finish_reason, delta.stop_reason
            completion.error = delta.error

    def abort(self) -> None:
        """End the completions that have not ended."""
        running = [c.index for c in self.output.outputs if c.finish_reason is None]
        self.add([Delta(index, "", [], "abort") for index in running])

    def take(self) -> RequestOutput | None:
        """The output that the request's ``output_kind`` gives now; None for nothing. Returned objects are not
        changed later.
        """
        if self._kind is RequestOutputKind.FINAL_ONLY:
            return self.take_whole() if self.finished else None
        for index, completion in enumerate(self.output.outputs):
            self._join_text(index, completion)
        if self._kind is RequestOutputKind.DELTA:
            completions = [new for c in self.output.outputs if (new := self._take_new(c)) is not None]
            if not completions:
                return None
        else:
            completions = [
                replace(c, token_ids=list(c.token_ids), logprobs=None if c.logprobs is None else list(c.logprobs))
                for c in self.output.outputs
            ]
        return replace(self.output, outputs=completions, metrics=replace(self.metrics))

    def take_whole(self) -> RequestOutput:
        """The whole output, whatever the request's ``output_kind``. Called once, at the end."""
        for index, completion in enumerate(self.output.outputs):
            self._join_text(index, completion)
        return self.output

    def _join_text(self, index: int, completion: CompletionOutput) -> None:
        if texts := self._texts[index]:
            completion.text += "".join(texts)
            texts.clear()

    def _take_new(self, completion: CompletionOutput) -> CompletionOutput | None:
        characters, tokens = self._taken[completion.index]
        if characters < 0:  # its end was given out
            return None
        text, ids = completion.text[characters:], completion.token_ids[tokens:]
        ended = completion.finish_reason is not None
        if not (text or ids or ended):
            return None
        self._taken[completion.index] = (-1, -1) if ended else (len(completion.text), len(completion.token_ids))
        logprobs: list[PositionLogprobs] | None = None if completion.logprobs is None else completion.logprobs[tokens:]
        return replace(completion, text=text, token_ids=ids, logprobs=logprobs)
