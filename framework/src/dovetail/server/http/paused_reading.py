"""Flow control that notices clients who leave while nothing is read from them."""

from __future__ import annotations

import asyncio
import select
import socket

from uvicorn.protocols.http.flow_control import FlowControl

CHECK_SECONDS = 0.5
"""Seconds between looks at a connection that is not read from."""
LEFT = getattr(select, "POLLRDHUP", 0)
"""The event of a connection that the other side has closed for writing. Others are always reported."""


class WatchedFlow(FlowControl):
    """uvicorn's flow control of one connection. While reading is paused, the connection is closed if the client has
    left.

    Reading pauses when a client sends its next request before the response to the last one, and the end of a connection
    is normally found by reading.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(transport)
        self._loop = loop
        self._next_look: asyncio.TimerHandle | None = None

    def pause_reading(self) -> None:
        super().pause_reading()
        if self._next_look is None:
            self._next_look = self._loop.call_later(CHECK_SECONDS, self._look)

    def resume_reading(self) -> None:
        super().resume_reading()
        self.stop_looking()

    def stop_looking(self) -> None:
        """Called at the end of the connection."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self) -> None:
        self._next_look = None
        if self._transport.is_closing():
            return
        if has_left(self._transport.get_extra_info("socket")):
            self._transport.close()
        else:
            self._next_look = self._loop.call_later(CHECK_SECONDS, self._look)


def has_left(sock: socket.socket) -> bool:
    """Whether the other side has closed a connection, however much it has sent before that."""
    poll = select.poll()
    poll.register(sock.fileno(), LEFT)
    return bool(poll.poll(0))
