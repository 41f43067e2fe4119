"""Runs the prompts of a request on the engine, and joins what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from dovetail.engine.outputs import Delta
from dovetail.engine.params import SamplingParams
from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError, stopping

Batches = AsyncGenerator[list[Delta], None]


@dataclass(slots=True)
class Completion:
    """One finished choice of an answer."""

    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str | None = None
    stop_reason: str | int | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


async def generate(
    context: ServerContext, request_id: str, prompts: list[list[int]], params: SamplingParams
) -> Batches:
    """Yield the deltas of all prompts, ``index`` counting choices over the whole request.

    Raises:
        ApiError: a completion ended in an error.
    """
    if len(prompts) == 1:
        streams = context.engine.generate(request_id, prompts[0], params)
        async with aclosing(streams) as batches:
            async for batch in batches:
                yield _checked(batch, 0)
        return
    queue: asyncio.Queue[list[Delta] | Exception | None] = asyncio.Queue(maxsize=len(prompts))

    async def pump(number: int, prompt: list[int]) -> None:
        try:
            async with aclosing(context.engine.generate(f"{request_id}-{number}", prompt, params)) as batches:
                async for batch in batches:
                    await queue.put(_checked(batch, number * params.n))
            await queue.put(None)
        except Exception as error:
            await queue.put(error)

    tasks = [asyncio.create_task(pump(number, prompt)) for number, prompt in enumerate(prompts)]
    running = len(tasks)
    try:
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _checked(batch: list[Delta], first: int) -> list[Delta]:
    for delta in batch:
        if delta.finish_reason == "error":
            raise ApiError(500, delta.error or "the engine could not finish this request", code="engine_error")
        if delta.finish_reason == "abort":
            raise stopping()
        delta.index += first
    return batch


async def collect(batches: Batches, choices: int) -> list[Completion]:
    """Run a generation to its end."""
    done = [Completion() for _ in range(choices)]
    async with aclosing(batches):
        async for batch in batches:
            for delta in batch:
                choice = done[delta.index]
                choice.parts.append(delta.text)
                choice.tokens += len(delta.token_ids)
                if delta.finish_reason is not None:
                    choice.finish_reason, choice.stop_reason = delta.finish_reason, delta.stop_reason
    return done


async def first_of(batches: Batches) -> list[Delta]:
    """The first batch, so that what the engine refuses is refused before the answer has begun."""
    return await anext(batches, [])
