"""Stop signals of the process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dovetail.kernel.interrupts import set_handled

T = TypeVar("T")
logger = logging.getLogger("dovetail.server")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """Events for the first and the second stop signal.

    As a context manager it handles :data:`SIGNALS`. Otherwise it only knows the signals passed to :meth:`deliver`.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self._handled = False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            self._handled = True
            set_handled(True)
            for number in SIGNALS:
                asyncio.get_running_loop().add_signal_handler(number, self._handle, number)
        return self

    def __exit__(self, *_: object) -> None:
        self.restore()

    def restore(self) -> None:
        """Restore the default handlers: the next signal ends the process at once."""
        if self._handled:
            for number in SIGNALS:
                asyncio.get_running_loop().remove_signal_handler(number)
            self._handled = False
            set_handled(False)

    def _handle(self, number: int) -> None:
        if self.first.is_set():
            logger.info("stopping at once: %s again", signal.Signals(number).name)
        else:
            logger.info(
                "stopping: %s; running requests may finish, another signal ends them", signal.Signals(number).name
            )
        self.deliver(number)

    def deliver(self, number: int = signal.SIGTERM) -> None:
        self.number = self.number or number
        (self.second if self.first.is_set() else self.first).set()

    def watch_stdin(self) -> None:
        """Treat the end of standard input as a signal."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            while os.read(0, 1 << 16):
                pass
            with contextlib.suppress(RuntimeError):  # the loop is closed: we are stopping already
                loop.call_soon_threadsafe(self.deliver)

        threading.Thread(target=read, daemon=True).start()


async def run_until_signal(make: Callable[[], Awaitable[T]], signals: Signals) -> T | None:
    """The result of ``make``, or None if a signal came first."""

    async def run() -> T:
        return await make()

    making, signalled = asyncio.create_task(run()), asyncio.create_task(signals.first.wait())
    try:
        await asyncio.wait({making, signalled}, return_when=asyncio.FIRST_COMPLETED)
        return making.result() if making.done() else None
    finally:
        making.cancel()
        signalled.cancel()
        await asyncio.gather(making, signalled, return_exceptions=True)
