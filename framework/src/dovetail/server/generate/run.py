"""Runs the prompts of a request on the engine, and merges their outputs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, field

from dovetail.engine.request.outputs import Delta, PositionLogprobs
from dovetail.server.context import ServerContext
from dovetail.server.generate.beam_search import run_beam_search
from dovetail.server.generation_job import Job
from dovetail.server.http.errors import ApiError, engine_error, server_stopping_error
from dovetail.server.observe.request_log import OutputLog, log_job
from dovetail.server.observe.request_records import JobObserver
from dovetail.utils.panics import reraise_control_flow

STARTED_AT_ONCE = 32
"""Prompts that begin in one turn of the event loop. Each takes about 0.2 ms."""
BYTES_PER_ID = 4
"""Bytes of text that take about as long as a token id."""
Batches = AsyncGenerator[list[Delta], None]


@dataclass(slots=True)
class Completion:
    """One finished choice of a response."""

    parts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[PositionLogprobs] = field(default_factory=list)
    prompt_logprobs: Sequence[PositionLogprobs | None] | None = None
    cached_tokens: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def add(self, delta: Delta) -> None:
        self.parts.append(delta.text)
        self.token_ids += delta.token_ids
        self.logprobs += delta.logprobs or ()
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs
        self.cached_tokens += delta.cached_tokens
        if delta.finish_reason is not None:
            self.finish_reason, self.stop_reason = delta.finish_reason, delta.stop_reason


async def generate(context: ServerContext, job: Job) -> Batches:
    """Yield the deltas of all prompts. Their ``index`` counts choices over the whole request.

    Raises:
        ApiError: too many requests wait, or a completion ended in an error.
    """
    admission = context.admission
    one = len(job.prompts) == 1
    if context.settings.enable_log_requests:  # writing out long prompts takes time
        await context.workers.run(
            lambda: log_job(context.settings, context.engine.tokenizer, job), BYTES_PER_ID * job.num_prompt_tokens
        )
    outputs = OutputLog(job, context.settings) if context.settings.enable_log_outputs else None
    with (
        admission.admit(job.num_sequences) as ticket,
        JobObserver(context.generation_metrics, job) as observation,
        outputs or nullcontext(),
    ):
        async with aclosing(_run_prompt(context, job, 0) if one else _run_prompts(context, job)) as batches:
            async for batch in batches:
                if one:
                    _renumber(batch, job, 0)
                if ended := observation.add(batch):
                    admission.release(ticket, ended)
                if outputs is not None:
                    outputs.add(batch)
                yield batch


def _run_prompt(context: ServerContext, job: Job, number: int) -> Batches:
    if job.beams is not None:
        return run_beam_search(
            context,
            job.prompts[number],
            job.beams,
            job.params,
            priority=job.priority,
            cache_salt=job.cache_salt,
            adapter=job.adapter,
        )
    return context.engine.generate(
        f"{job.id}-{number}",
        job.prompts[number],
        job.params,
        priority=job.priority,
        cache_salt=job.cache_salt,
        adapter=job.adapter,
        images=job.images,
    )


def _renumber(batch: list[Delta], job: Job, number: int) -> None:
    """Shift the choice index of a prompt's deltas to its place in the request.

    Raises:
        ApiError: a completion ended in an error.
    """
    for delta in batch:
        if delta.finish_reason is not None:
            _check_finish(delta)
        delta.index += number * job.params.n
        if job.scoring:
            delta.text, delta.token_ids, delta.logprobs = "", [], []
            delta.finish_reason, delta.stop_reason = "length", None


async def _run_prompts(context: ServerContext, job: Job) -> Batches:
    queue: asyncio.Queue[list[Delta] | BaseException | None] = asyncio.Queue(maxsize=len(job.prompts))

    async def pump(number: int) -> None:
        try:
            async with aclosing(_run_prompt(context, job, number)) as batches:
                async for batch in batches:
                    _renumber(batch, job, number)
                    await queue.put(batch)
            await queue.put(None)
        except BaseException as error:  # a library's panic among them: whoever waits for the queue must learn of it
            reraise_control_flow(error)
            await queue.put(error)

    tasks: list[asyncio.Task[None]] = []
    running = len(job.prompts)
    try:
        for number in range(len(job.prompts)):
            tasks.append(asyncio.create_task(pump(number)))
            if number % STARTED_AT_ONCE == STARTED_AT_ONCE - 1:
                await asyncio.sleep(0)  # they begin, and others have their turn
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _check_finish(delta: Delta) -> None:
    if delta.finish_reason == "error" and delta.is_request_error:
        raise ApiError(400, delta.error or "the engine refused this request")
    if delta.finish_reason == "error":
        raise engine_error(delta.error)
    if delta.finish_reason == "abort":
        raise server_stopping_error()


async def collect_completions(batches: Batches, choices: int) -> list[Completion]:
    """Run a generation to its end, and return the completions."""
    done = [Completion() for _ in range(choices)]
    async with aclosing(batches):
        async for batch in batches:
            for delta in batch:
                done[delta.index].add(delta)
    return done


async def first_batch(batches: Batches) -> list[Delta]:
    """Wait for the first batch, so that an error of the engine is raised before the response begins."""
    return await anext(batches, [])
