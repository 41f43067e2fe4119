"""Runs the work of a request, and cancels it when the client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from dovetail.server.context import ServerContext
from dovetail.server.http.disconnect import wait_for_disconnect

T = TypeVar("T")


class ClientDisconnectedError(Exception):
    """The client closed its connection, so nobody will read the response."""


async def run_while_connected(context: ServerContext, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, and cancel it when the client disconnects.

    Args:
        receive: ASGI's receive of the request, whose body was already read.

    Raises:
        ClientDisconnectedError: the client disconnected.
        ApiError: the server ended the request (:meth:`ServerContext.abort_all`).
    """
    task = asyncio.create_task(work)
    disconnect = asyncio.create_task(wait_for_disconnect(receive))
    context.open_tasks.add(task)
    context.open_requests.inc()
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnectedError
        if task.cancelled() and context.closing_error is not None:
            raise context.closing_error
        return task.result()
    finally:
        context.open_tasks.discard(task)
        context.open_requests.dec()
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)
