"""Background responses: generated without an open connection. Clients poll for the result, or follow the events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from starlette.types import Scope, Send

from dovetail.server.context import ServerContext
from dovetail.server.generate.response_builders import request_id_taken_error
from dovetail.server.generate.run import Batches, generate
from dovetail.server.generate.sse import EventSourceResponse, send_events
from dovetail.server.http.errors import ApiError, server_stopping_error, to_api_error
from dovetail.server.observe.request_log import request_id
from dovetail.server.responses.response_builder import ResponsesResponseBuilder, error_object
from dovetail.server.responses.stream import EVENT_END, ResponsesStreamEncoder, encode_event
from dovetail.server.stored.database import StoreUnavailableError
from dovetail.server.stored.responses import EventBatch, TooManyUnfinishedError
from dovetail.server.stored.store import UNFINISHED, DuplicateIdError, MissingError
from dovetail.utils.panics import reraise_control_flow

CANCEL_POLL_SECONDS = 0.25
"""Seconds between checks whether another process has cancelled a response of this process."""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.25, 30.0
"""Seconds between attempts to store how a response ended."""
EVENT_POLL_SECONDS = 0.1
"""Seconds between checks for new events of a response that another process generates."""


class BackgroundResponses:
    """The background responses that this process generates."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._updates: dict[str, asyncio.Event] = {}
        self._watching: asyncio.Task[None] | None = None

    async def start(self, builder: ResponsesResponseBuilder) -> dict[str, Any]:
        """Start to generate a response. Returns its current state.

        Raises:
            ApiError: as many responses are in progress as can be stored, the id is taken, or nothing can be stored now.
        """
        response = builder.response_object("queued", [])
        store = self._context.response_store
        stream = builder.stream_encoder() if builder.body.stream else None
        try:
            await store.begin(
                response,
                builder.input_items,
                stream.event_batch(stream.encode_start()) if stream else None,
                builder.named_items,
            )
        except TooManyUnfinishedError:
            message = f"{self._context.store.max_answers} responses are being made in the background (--max-stored-responses), and no more may be; try again later"
            raise ApiError(429, message, param="background", code="queue_full") from None
        except DuplicateIdError:
            raise request_id_taken_error(builder.body, "response") from None
        task = asyncio.create_task(self._run(builder, stream))
        self._tasks[builder.id] = task
        self._updates[builder.id] = asyncio.Event()
        self._context.open_tasks.add(task)
        self._context.open_requests.inc()
        self._context.concurrent_requests.inc()
        task.add_done_callback(lambda _: self._ended(builder.id, task))
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        return response

    def stop(self, id: str) -> None:
        """Stop generating a response, if this process generates it."""
        if (task := self._tasks.get(id)) is not None:
            task.cancel()

    async def follow(self, id: str, after: int) -> AsyncGenerator[bytes, None]:
        """Yield the events of a response after the given number, until it has ended or is deleted. Any process may
        generate it.
        """
        while True:
            updates = self._updates.get(id)
            try:
                status, event_batches = await self._context.response_store.events_after(id, after)
            except MissingError:
                return
            for each in event_batches:
                yield _events_after(each, after)
                after = each.last
            if status not in UNFINISHED:
                return
            if not event_batches:
                with suppress(TimeoutError):
                    async with asyncio.timeout(EVENT_POLL_SECONDS):
                        await (asyncio.sleep(EVENT_POLL_SECONDS) if updates is None else updates.wait())

    async def _run(self, builder: ResponsesResponseBuilder, stream: ResponsesStreamEncoder | None) -> None:
        """Generate a response, and store how it ended, whatever ended it: no response stays unfinished."""
        try:
            batches = self._generate(builder, stream)
            if stream is None:
                response, new_events = await builder.collect_response(batches), None
            else:
                async with aclosing(batches):
                    async for batch in batches:
                        await self._append_events(builder.id, stream.event_batch(stream.encode_deltas(batch)))
                await stream.finish()
                response, new_events = stream.response, stream.event_batch(stream.encode_end())
            await self._update(response, new_events)
        except asyncio.CancelledError:  # it was cancelled or deleted, which the store knows; or the server stops
            await self._fail(builder, stream, self._context.closing_error or server_stopping_error())
            raise
        except BaseException as error:  # a library's panic among them
            reraise_control_flow(error)
            await self._fail(builder, stream, to_api_error(error, request_id()))

    async def _fail(
        self, builder: ResponsesResponseBuilder, stream: ResponsesStreamEncoder | None, error: ApiError
    ) -> None:
        """Store that a response has failed. Until that is possible, this process shows it so."""
        if stream is None:
            response, new_events = builder.failed_response(error, []), None
        else:
            new_events = stream.event_batch(stream.encode_error(error, {}))
            response = stream.response
        seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                await self._update(response, new_events)
                return
            except StoreUnavailableError:
                self._context.response_store.hold(response)
                self._notify_followers(builder.id)
                await asyncio.sleep(seconds)
                seconds = min(2 * seconds, MAX_RETRY_SECONDS)

    async def _generate(self, builder: ResponsesResponseBuilder, stream: ResponsesStreamEncoder | None) -> Batches:
        """Generate the response. Its status is ``in_progress`` once the engine has started."""
        begun = False
        async with aclosing(generate(self._context, builder.job)) as batches:
            async for batch in batches:
                if not begun:
                    begun = True
                    new_events = stream.event_batch(stream.encode_in_progress()) if stream else None
                    await self._update(builder.response_object("in_progress", []), new_events)
                yield batch

    async def _append_events(self, id: str, new_events: EventBatch | None) -> None:
        if new_events is not None:
            await self._context.response_store.append_events(id, new_events)
            self._notify_followers(id)

    async def _update(self, response: dict[str, Any], new_events: EventBatch | None) -> None:
        await self._context.response_store.update(response, new_events)
        self._notify_followers(response["id"])

    def _notify_followers(self, id: str) -> None:
        """Wake the followers of a response."""
        self._updates[id].set()
        self._updates[id] = asyncio.Event()

    async def _watch(self) -> None:
        while self._tasks:
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            own_ids = set(self._tasks)  # those that begin meanwhile are not looked for
            with suppress(StoreUnavailableError):  # it is asked again soon
                for id in own_ids - await self._context.response_store.filter_unfinished(own_ids):
                    self.stop(id)

    def _ended(self, id: str, task: asyncio.Task[None]) -> None:
        del self._tasks[id]
        self._updates.pop(id).set()
        self._context.open_tasks.discard(task)
        self._context.open_requests.dec()
        self._context.concurrent_requests.dec()


class BackgroundStreamResponse(EventSourceResponse):
    """Streams the events of a background response. The response goes on if the client disconnects.

    Args:
        events: as bytes.
        after: the number of the event before them.
    """

    def __init__(self, context: ServerContext, events: AsyncGenerator[bytes, None], after: int = -1) -> None:
        super().__init__(context)
        self.events = events
        self._last = after

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        fields = {"code": error.code, "message": error.message, "param": error.param}
        return encode_event("error", self._last + 1, fields)

    async def send_all(self, send: Send) -> None:
        async with self.keep_alive(send):
            async for chunk in self.events:
                self.is_idle = False
                self._last += chunk.count(EVENT_END)
                await send_events(send, chunk)

    async def close(self) -> None:
        await self.events.aclose()


async def fail_orphaned_responses(context: ServerContext) -> None:
    """Mark unfinished responses of a crashed predecessor (same process number) as failed."""
    error = ApiError(500, "the process that made this response has ended; ask again")
    try:
        orphaned = await context.response_store.find_orphaned()
    except StoreUnavailableError:  # which keeps no process from serving
        return
    for response, last in orphaned:
        failed = {**response, "status": "failed", "error": error_object(error)}
        new_events = (
            None
            if last is None
            else EventBatch(last + 1, encode_event("response.failed", last + 1, {"response": failed}))
        )
        with suppress(StoreUnavailableError):
            await context.response_store.update(failed, new_events)


def _events_after(new_events: EventBatch, number: int) -> bytes:
    """The events after the given number."""
    events = new_events.events.split(EVENT_END)[:-1]
    first = new_events.last - len(events) + 1
    return b"".join(each + EVENT_END for each in events[max(number + 1 - first, 0) :])
