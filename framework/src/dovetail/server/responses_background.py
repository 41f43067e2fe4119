"""Responses that are made while nobody waits for them: their clients ask from time to time whether they are done."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from dovetail.server.context import ServerContext
from dovetail.server.errors import ApiError, to_api_error
from dovetail.server.generation import Batches, generate
from dovetail.server.request_log import request_id
from dovetail.server.responses_answer import ResponseAnswer, error_of

WATCH_SECONDS = 0.25
"""After which a process learns that another has cancelled what it makes."""


class Background:
    """The responses that this process makes."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self, answer: ResponseAnswer) -> dict[str, Any]:
        """Begin to make a response, which is returned as it is now.

        Raises:
            ApiError: as many are being made as are kept.
        """
        response = answer.response("queued", [])
        store = self._context.responses
        if not await store.begin(response, answer.given):
            message = f"{store.most} responses are being made in the background (--max-stored-responses), and no more may be; try again later"
            raise ApiError(429, message, param="background", code="queue_full")
        task = asyncio.create_task(self._make(answer))
        self._tasks[answer.id] = task
        self._context.open.add(task)
        self._context.requests.inc()
        self._context.taken.inc()
        task.add_done_callback(lambda _: self._ended(answer.id, task))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        return response

    def stop(self, id: str) -> None:
        """Make a response no further, if it is one of this process."""
        if (task := self._tasks.get(id)) is not None:
            task.cancel()

    async def _make(self, answer: ResponseAnswer) -> None:
        try:
            await answer.made(self._begun(answer))
        except Exception as error:
            await self._context.responses.update(answer.failed(to_api_error(error, request_id()), []))

    async def _begun(self, answer: ResponseAnswer) -> Batches:
        """What the engine makes; the response is in progress once it has begun."""
        begun = False
        async with aclosing(generate(self._context, answer.job)) as batches:
            async for batch in batches:
                if not begun:
                    begun = True
                    await self._context.responses.update(answer.response("in_progress", []))
                yield batch

    async def _watch(self) -> None:
        while self._tasks:
            await asyncio.sleep(WATCH_SECONDS)
            made = set(self._tasks)  # those that begin meanwhile are not looked for
            for id in made - await self._context.responses.wanted(made):
                self.stop(id)

    def _ended(self, id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[id]
        self._context.open.discard(task)
        self._context.requests.dec()
        self._context.taken.dec()


async def take_over(context: ServerContext) -> None:
    """Have failed what was being made by another process that had the number of this one."""
    error = ApiError(500, "the process that made this response has ended; ask again")
    await context.responses.take_over(error_of(error))
