"""Work that nobody needs once the request's client has left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, TypeVar

from starlette.types import Receive

from dovetail.server.http.errors import ApiError

T = TypeVar("T")

current_receive: ContextVar[Receive | None] = ContextVar("dovetail_receive", default=None)
"""ASGI's receive of the current request, set once its body was read."""


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait until the client has left.

    Args:
        receive: of a request whose body was read.
    """
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_connected(work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``, and cancel it when the current request's client leaves. Outside of a request, just await it.

    Raises:
        ApiError: the client left.
    """
    receive = current_receive.get()
    if receive is None:
        return await work
    task = asyncio.create_task(work)
    left = asyncio.create_task(wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client left")  # what other servers log for it
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)
