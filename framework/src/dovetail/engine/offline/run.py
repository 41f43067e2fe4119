"""Runs requests on an engine in this process until all are finished."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.engine.offline.prompts import TokenizedPrompt
from dovetail.engine.output.processor import OutputProcessor
from dovetail.engine.request.outputs import CompletionOutput, Delta, RequestMetrics, RequestOutput
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.core import EngineCore

STALL_SECONDS = 0.002
"""Between looks at requests that wait for something else than room: a grammar that is being compiled."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request of the offline API.

    Attributes:
        priority: lower runs first.
        adapter: name of the LoRA adapter to run with.
    """

    prompt: TokenizedPrompt
    params: SamplingParams
    priority: int = 0
    adapter: str | None = None


class OfflineRunner:
    """Adds requests, steps the engine, and joins what comes back. Used by one thread at a time."""

    def __init__(self, core: EngineCore, processor: OutputProcessor) -> None:
        self._core = core
        self._processor = processor
        self._ids = itertools.count()

    def run(self, jobs: Sequence[Job], finished: Callable[[], Any] = lambda: None) -> list[RequestOutput]:
        """The output of each job, in order.

        Args:
            finished: called whenever one more is.

        Raises:
            RequestError: a request is refused. Nothing has been computed then.
        """
        pending = {(name := str(next(self._ids))): _PendingOutput(name, job) for job in jobs}
        try:
            for request_id, waiting in pending.items():
                job = waiting.job
                sequences = self._processor.add(
                    request_id,
                    job.prompt.token_ids,
                    job.params,
                    priority=job.priority,
                    cache_salt=job.prompt.cache_salt,
                    adapter=job.adapter,
                )
                for sequence in sequences:
                    self._core.add(sequence)
            self._run_until_finished(pending, finished)
        except BaseException:  # Ctrl+C among them: leave nothing behind for the next call
            for request_id in pending:
                self._core.abort(self._processor.abort(request_id))
            raise
        return [waiting.output for waiting in pending.values()]

    def _run_until_finished(self, pending: dict[str, _PendingOutput], finished: Callable[[], Any]) -> None:
        unfinished = len(pending)
        while unfinished:
            outputs = self._core.step()
            if not outputs:  # work may be on its way, or nothing can be computed yet
                if self._core.stalled:
                    time.sleep(STALL_SECONDS)
                continue
            deltas, aborts = self._processor.process(outputs)
            self._core.abort(aborts)
            now = time.monotonic()
            for request_id, new in deltas.items():
                pending[request_id].add(new, now)
                if not self._processor.is_unfinished(request_id):
                    pending[request_id].finish(now)
                    unfinished -= 1
                    finished()


class _PendingOutput:
    """A request's output as it grows."""

    def __init__(self, request_id: str, job: Job) -> None:
        self.job = job
        self.metrics = RequestMetrics(arrival=time.monotonic())
        completions = [CompletionOutput(i) for i in range(job.params.n)]
        if job.params.logprobs is not None:
            for completion in completions:
                completion.logprobs, completion.cumulative_logprob = [], 0.0
        self.output = RequestOutput(
            request_id, job.prompt.text, job.prompt.token_ids, completions, metrics=self.metrics
        )
        self._texts: list[list[str]] = [[] for _ in completions]

    def add(self, deltas: list[Delta], now: float) -> None:
        self.metrics.first_token = self.metrics.first_token or now
        for delta in deltas:
            completion = self.output.outputs[delta.index]
            if delta.index == 0 and not completion.token_ids:
                self.output.num_cached_tokens = delta.cached_tokens
                self.output.prompt_logprobs = delta.prompt_logprobs
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

    def finish(self, now: float) -> None:
        for completion, texts in zip(self.output.outputs, self._texts, strict=True):
            completion.text = "".join(texts)
        self.output.finished = True
        self.metrics.finished = now
