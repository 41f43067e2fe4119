"""The server's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
with contextlib.suppress(
    ImportError
):  # it does not exist for every system; the standard library's does all that it does, slower
    import uvloop

    new_event_loop = uvloop.new_event_loop


def run(work: Coroutine[Any, Any, T]) -> T:
    """Like :func:`asyncio.run`, with the server's event loop."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)
