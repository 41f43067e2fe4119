"""Responses that are made while nobody waits for them: their clients ask from time to time whether they are done, or follow what is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.types import Send

from dovetail.server.context import ServerContext
from dovetail.server.generate.answers import id_taken
from dovetail.server.generate.run import Batches, generate
from dovetail.server.generate.sse import Events, send_events
from dovetail.server.http.errors import ApiError, to_api_error
from dovetail.server.observe.request_log import request_id
from dovetail.server.responses.answer import ResponseAnswer, error_of
from dovetail.server.responses.stream import EVENT_END, ResponseStream, event
from dovetail.server.stored.responses import FullError, TakenError, Told
from dovetail.server.stored.store import UNFINISHED, MissingError

WATCH_SECONDS = 0.25
"""After which a process learns that another has cancelled what it makes."""
NEWS_SECONDS = 0.1
"""After which a process learns what is told of a response that another makes."""


class Background:
    """The responses that this process makes."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self, answer: ResponseAnswer) -> dict[str, Any]:
        """Begin to make a response, which is returned as it is now.

        Raises:
            ApiError: as many are being made as are kept, or there is one with its id.
        """
        response = answer.response("queued", [])
        store = self._context.responses
        stream = answer.stream() if answer.body.stream else None
        try:
            await store.begin(response, answer.given, stream.told(stream.opening()) if stream else None)
        except FullError:
            message = f"{self._context.store.most} responses are being made in the background (--max-stored-responses), and no more may be; try again later"
            raise ApiError(429, message, param="background", code="queue_full") from None
        except TakenError:
            raise id_taken(answer.body, "response") from None
        task = asyncio.create_task(self._make(answer, stream))
        self._tasks[answer.id] = task
        self._news[answer.id] = asyncio.Event()
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

    async def follow(self, id: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yield what is told of a response after the event of this number, until it has ended or is forgotten; whichever process makes it."""
        while True:
            news = self._news.get(id)
            try:
                status, told = await self._context.responses.told(id, after)
            except MissingError:
                return
            for each in told:
                yield _later(each, after)
                after = each.last
            if status not in UNFINISHED:
                return
            if not told:
                with suppress(TimeoutError):
                    async with asyncio.timeout(NEWS_SECONDS):
                        await (asyncio.sleep(NEWS_SECONDS) if news is None else news.wait())

    async def _make(self, answer: ResponseAnswer, stream: ResponseStream | None) -> None:
        try:
            batches = self._begun(answer, stream)
            if stream is None:
                response, told = await answer.made(batches), None
            else:
                async with aclosing(batches):
                    async for batch in batches:
                        await self._tell(answer.id, stream.told(stream.events(batch)))
                await stream.settle()
                response, told = stream.response, stream.told(stream.ending())
        except Exception as error:
            fault = to_api_error(error, request_id())
            if stream is None:
                response, told = answer.failed(fault, []), None
            else:
                told = stream.told(stream.failure(fault, {}))
                response = stream.response
        await self._update(response, told)

    async def _begun(self, answer: ResponseAnswer, stream: ResponseStream | None) -> Batches:
        """What the engine makes; the response is in progress once it has begun."""
        begun = False
        async with aclosing(generate(self._context, answer.job)) as batches:
            async for batch in batches:
                if not begun:
                    begun = True
                    told = stream.told(stream.begun()) if stream else None
                    await self._update(answer.response("in_progress", []), told)
                yield batch

    async def _tell(self, id: str, told: Told | None) -> None:
        if told is not None:
            await self._context.responses.tell(id, told)
            self._announce(id)

    async def _update(self, response: dict[str, Any], told: Told | None) -> None:
        await self._context.responses.update(response, told)
        self._announce(response["id"])

    def _announce(self, id: str) -> None:
        """Wake those that follow a response."""
        self._news[id].set()
        self._news[id] = asyncio.Event()

    async def _watch(self) -> None:
        while self._tasks:
            await asyncio.sleep(WATCH_SECONDS)
            made = set(self._tasks)  # those that begin meanwhile are not looked for
            for id in made - await self._context.responses.wanted(made):
                self.stop(id)

    def _ended(self, id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[id]
        self._news.pop(id).set()
        self._context.open.discard(task)
        self._context.requests.dec()
        self._context.taken.dec()


class Followed(Events):
    """Sends what is told of a response in the background; that its client leaves does not end the response."""

    def __init__(self, context: ServerContext, told: AsyncGenerator[bytes, None]) -> None:
        super().__init__(context)
        self.told = told

    async def pump(self, send: Send) -> None:
        async with self.kept_alive(send):
            async for events in self.told:
                self.quiet = False
                await send_events(send, events)

    async def close(self) -> None:
        await self.told.aclose()


async def take_over(context: ServerContext) -> None:
    """Have failed what was being made by another process that had the number of this one."""
    error = ApiError(500, "the process that made this response has ended; ask again")
    for response, last in await context.responses.left():
        failed = {**response, "status": "failed", "error": error_of(error)}
        told = None if last is None else Told(last + 1, event("response.failed", last + 1, {"response": failed}))
        await context.responses.update(failed, told)


def _later(told: Told, number: int) -> bytes:
    """Those of the events that come after the one with this number."""
    events = told.events.split(EVENT_END)[:-1]
    first = told.last - len(events) + 1
    return b"".join(each + EVENT_END for each in events[max(number + 1 - first, 0) :])
