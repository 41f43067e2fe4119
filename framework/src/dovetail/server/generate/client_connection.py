"""Work that ends when its client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from dovetail.server.context import ServerContext

T = TypeVar("T")


class ClientLeftError(Exception):
    """The client closed its connection; nobody reads the answer."""


async def while_connected(context: ServerContext, receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, and cancel it as soon as the client leaves.

    Args:
        receive: of the request, its body already read.

    Raises:
        ClientLeftError: the client left.
        ApiError: the server ended the request (:meth:`ServerContext.abort_all`).
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(receive))
    context.open.add(task)
    context.requests.inc()
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        if task.cancelled() and context.closing is not None:
            raise context.closing
        return task.result()
    finally:
        context.open.discard(task)
        context.requests.dec()
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
