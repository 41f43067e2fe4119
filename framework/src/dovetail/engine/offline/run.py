"""Runs requests on an engine in this process: all to their end, or step by step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dovetail.engine.messages import ImageInput
from dovetail.engine.offline.prompts import TokenizedPrompt
from dovetail.engine.output.accumulator import OutputAccumulator
from dovetail.engine.output.processor import OutputProcessor
from dovetail.engine.request.outputs import RequestOutput
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.core import EngineCore

STALL_SECONDS = 0.002
"""Seconds between checks of requests that wait for something other than memory, such as a grammar that is being
compiled.
"""


@dataclass(frozen=True, slots=True)
class Job:
    """A request of the offline API.

    Attributes:
        priority: lower runs first.
        adapter: name of the LoRA adapter to run with.
        images: of the prompt, whose token ids have their places.
    """

    prompt: TokenizedPrompt
    params: SamplingParams
    priority: int = 0
    adapter: str | None = None
    images: list[ImageInput] | None = None


class OfflineRunner:
    """Adds requests, steps the engine, and collects the outputs. Used by one thread at a time.

    Requests of :meth:`run` and requests that were added one by one can run at the same time: outputs of the latter are
    kept for :meth:`step`.
    """

    def __init__(self, core: EngineCore, processor: OutputProcessor) -> None:
        self._core = core
        self._processor = processor
        self._ids = itertools.count()
        self._pending: dict[str, OutputAccumulator] = {}
        self._changed: dict[str, OutputAccumulator] = {}  # requests that got something which step() has not given out

    @property
    def num_unfinished(self) -> int:
        """Number of requests whose last output was not returned yet."""
        return len(self._pending.keys() | self._changed.keys())

    def add(self, request_id: str, job: Job) -> None:
        """Queue one request.

        Raises:
            RequestError: the request is refused, or its id is in use.
        """
        pending = OutputAccumulator(request_id, job.prompt.text, job.prompt.token_ids, job.params)
        new = self._processor.add(
            request_id,
            job.prompt.token_ids,
            job.params,
            priority=job.priority,
            cache_salt=job.prompt.cache_salt,
            adapter=job.adapter,
            images=job.images,
        )
        self._pending[request_id] = pending
        try:
            self._core.add(new)
        except BaseException:
            self.abort([request_id])
            raise

    def abort(self, request_ids: Sequence[str]) -> None:
        """Abort requests. Unknown ids are ignored."""
        for request_id in request_ids:
            self._core.abort(self._processor.abort(request_id))
            self._pending.pop(request_id, None)
            self._changed.pop(request_id, None)

    def step(self) -> list[RequestOutput]:
        """Run one step of the engine. Returns outputs of the requests that were added one by one, as their
        ``output_kind`` says.
        """
        if self._pending:
            self._changed |= self._step_engine()
        changed, self._changed = self._changed, {}
        return [output for pending in changed.values() if (output := pending.take()) is not None]

    def run(self, jobs: Sequence[Job], finished: Callable[[], Any] = lambda: None) -> list[RequestOutput]:
        """The output of each job, in order.

        Args:
            finished: called after each finished request.

        Raises:
            RequestError: a request is refused. Nothing has been computed then.
        """
        mine: dict[str, OutputAccumulator] = {}
        try:
            for job in jobs:
                request_id = next(name for i in self._ids if (name := str(i)) not in self._pending)
                self.add(request_id, job)
                mine[request_id] = self._pending[request_id]
            unfinished = len(mine)
            while unfinished:
                for request_id, pending in self._step_engine().items():
                    if request_id not in mine:
                        self._changed[request_id] = pending
                    elif pending.finished:
                        unfinished -= 1
                        finished()
        except BaseException:  # Ctrl+C among them: leave nothing behind for the next call
            self.abort(list(mine))
            raise
        return [pending.take_whole() for pending in mine.values()]

    def _step_engine(self) -> dict[str, OutputAccumulator]:
        """Step the engine. Returns the requests with new output; finished ones are no longer pending."""
        outputs = self._core.step()
        if not outputs:  # work may be on its way, or nothing can be computed yet
            if self._core.stalled:
                time.sleep(STALL_SECONDS)
            return {}
        deltas, aborts = self._processor.process(outputs)
        self._core.abort(aborts)
        changed: dict[str, OutputAccumulator] = {}
        for request_id, new in deltas.items():
            pending = changed[request_id] = self._pending[request_id]
            pending.add(new)
            if pending.finished:
                del self._pending[request_id]
        return changed
