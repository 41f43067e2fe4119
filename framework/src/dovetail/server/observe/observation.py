"""Watches what a request gets: for the metrics, the log and the traces."""

from __future__ import annotations

import asyncio
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

from dovetail.engine.request.outputs import Delta
from dovetail.server.generation_job import Job
from dovetail.server.observe.generation_metrics import Measures


@dataclass(slots=True, eq=False)
class Record:
    """One HTTP request, as far as it has come.

    Attributes:
        received: when it came, in seconds on the monotonic clock.
        route: the path of the route that serves it, empty while there is none.
        status: of its answer, 0 while there is none.
        jobs: what it had the engine do.
    """

    id: str
    method: str
    received: float = field(default_factory=time.monotonic)
    route: str = ""
    status: int = 0
    jobs: list[Observation] = field(default_factory=list)


current: ContextVar[Record | None] = ContextVar("dovetail_request", default=None)
"""The request that is being served."""


@dataclass(slots=True, eq=False)
class Watched:
    """One completion. Times are in seconds, moments on the monotonic clock."""

    tokens: int = 0
    first: float = 0.0
    last: float = 0.0
    cached: int = 0
    waited: float | None = None
    prefill: float = 0.0
    reason: str | None = None


class Observation:
    """What one job gets, from its beginning (``with``) to its end, however that comes.

    Attributes:
        began: when its request came.
        choices: in the order of the job's.
    """

    def __init__(self, measures: Measures, job: Job) -> None:
        record = current.get()
        if record is not None:
            record.jobs.append(self)
        self.job = job
        self.began = time.monotonic() if record is None else record.received
        self.choices = [Watched() for _ in range(job.choices)]
        self._measures = measures
        self._between = measures.between_tokens

    def __enter__(self) -> Observation:
        return self

    def add(self, batch: list[Delta]) -> int:
        """Take in what came together; how many completions it ended."""
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

    def _begin(self, choice: Watched, delta: Delta, now: float) -> None:
        choice.first = now
        choice.cached = delta.cached_tokens
        if delta.timing is not None:
            choice.waited, choice.prefill = delta.timing
        self._measures.first_token.observe(now - self.began)

    def _end(self, index: int, reason: str, now: float) -> None:
        measures, params, choice = self._measures, self.job.params, self.choices[index]
        choice.reason = reason
        measures.finished[reason].inc()
        prompt = len(self.job.prompt_of(index))
        measures.prompt.observe(prompt)
        measures.output.observe(choice.tokens)
        measures.latency.observe(now - self.began)
        if params.max_tokens is not None:
            measures.max_tokens.observe(params.max_tokens)
        if not choice.tokens:  # only the prompt was asked for
            return
        decode = choice.last - choice.first
        measures.computed.observe(prompt - choice.cached)
        measures.decode.observe(decode)
        if choice.tokens > 1:
            measures.per_token.observe(decode / (choice.tokens - 1))
        if choice.waited is not None:
            measures.waited.observe(choice.waited)
            measures.prefill.observe(choice.prefill)
            measures.inference.observe(choice.prefill + decode)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        measures, n = self._measures, self.job.params.n
        left = kind is not None and issubclass(kind, (GeneratorExit, asyncio.CancelledError))
        cut = [choice for choice in self.choices if choice.reason is None]
        for choice in cut:
            choice.reason = "abort" if left else "error"
            measures.finished[choice.reason].inc()
        if not cut:
            measures.choices.observe_many(n, len(self.job.prompts))
            for first in range(0, len(self.choices), n):
                measures.longest.observe(max(choice.tokens for choice in self.choices[first : first + n]))
