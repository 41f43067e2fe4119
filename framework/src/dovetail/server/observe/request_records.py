"""Records times and token counts of requests, for metrics, log and traces."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

from dovetail.engine.request.outputs import Delta
from dovetail.server.generation_job import Job
from dovetail.server.observe.generation_metrics import GenerationMetrics


@dataclass(slots=True, eq=False)
class RequestRecord:
    """The state of one HTTP request.

    Attributes:
        received: when it arrived, in seconds on the monotonic clock.
        route: the path of its route, empty until a route matched.
        status: of its response, 0 until the response starts.
        error: the message of an error response; ``error_code`` is its code for programs.
        jobs: its jobs on the engine.
        ignored: names of its ignored fields, in order.
    """

    id: str
    method: str
    received: float = field(default_factory=time.monotonic)
    route: str = ""
    status: int = 0
    error: str = ""
    error_code: str = ""
    jobs: list[JobObserver] = field(default_factory=list)
    ignored: dict[str, None] = field(default_factory=dict)


current_request: ContextVar[RequestRecord | None] = ContextVar("dovetail_request", default=None)
"""The current request."""


@dataclass(slots=True, eq=False)
class ChoiceRecord:
    """One completion. Durations are in seconds, points in time on the monotonic clock."""

    tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    cached: int = 0
    waited: float | None = None
    prefill: float = 0.0
    reason: str | None = None


class JobObserver:
    """Records one job, from its start (``with``) to its end, in every case.

    Attributes:
        began: when its request arrived.
        choices: in the order of the job's.
    """

    def __init__(self, metrics: GenerationMetrics, job: Job) -> None:
        record = current_request.get()
        if record is not None:
            record.jobs.append(self)
        self.job = job
        self.began = time.monotonic() if record is None else record.received
        self.choices = [ChoiceRecord() for _ in range(job.num_choices)]
        self._metrics = metrics
        self._between = metrics.inter_token_latency

    def __enter__(self) -> JobObserver:
        return self

    def add(self, batch: list[Delta]) -> int:
        """Record one batch of deltas. Returns how many completions it finished."""
        now = time.monotonic()
        ended = 0
        for delta in batch:
            choice = self.choices[delta.index]
            if count := len(delta.token_ids):
                if choice.tokens:
                    self._between.observe_many((now - choice.last) / count, count)
                else:
                    self._begin(choice, delta, now)
                choice.last = now
                choice.tokens += count
            if delta.finish_reason is not None:
                ended += 1
                self._end(delta.index, delta.finish_reason, now)
        return ended

    def _begin(self, choice: ChoiceRecord, delta: Delta, now: float) -> None:
        choice.first = now
        choice.cached = delta.cached_tokens
        if delta.timing is not None:
            choice.waited, choice.prefill = delta.timing
        self._metrics.time_to_first_token.observe(now - self.began)

    def _end(self, index: int, reason: str, now: float) -> None:
        metrics, params, choice = self._metrics, self.job.params, self.choices[index]
        choice.reason = reason
        metrics.finished[reason].inc()
        prompt = len(self.job.prompt_for(index))
        metrics.num_prompt_tokens.observe(prompt)
        metrics.num_output_tokens.observe(choice.tokens)
        metrics.e2e_latency.observe(now - self.began)
        if params.max_tokens is not None:
            metrics.max_tokens.observe(params.max_tokens)
        if not choice.tokens:  # only the prompt was asked for
            return
        decode = choice.last - choice.first
        metrics.num_computed_prompt_tokens.observe(prompt - choice.cached)
        metrics.decode_time.observe(decode)
        if choice.tokens > 1:
            metrics.time_per_output_token.observe(decode / (choice.tokens - 1))
        if choice.waited is not None:
            metrics.queue_time.observe(choice.waited)
            metrics.prefill_time.observe(choice.prefill)
            metrics.inference_time.observe(choice.prefill + decode)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        metrics, n = self._metrics, self.job.params.n
        left = kind is not None and issubclass(kind, (GeneratorExit, asyncio.CancelledError))
        cut = [choice for choice in self.choices if choice.reason is None]
        for choice in cut:
            choice.reason = "abort" if left else "error"
            metrics.finished[choice.reason].inc()
        if not cut:
            metrics.num_choices.observe_many(n, len(self.job.prompts))
            for first in range(0, len(self.choices), n):
                metrics.max_num_output_tokens.observe(max(choice.tokens for choice in self.choices[first : first + n]))
