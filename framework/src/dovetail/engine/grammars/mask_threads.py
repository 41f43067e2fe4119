"""Threads that compute masks. One that takes too long is given up, and another one takes its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any

from dovetail.api.errors import RequestError
from dovetail.engine.grammars.checks import PARAM

MASK_SECONDS = 3.0
"""Most time for the masks of one sequence, for which the engine's step waits. Usual ones take less than a millisecond."""
MAX_GIVEN_UP = 2
"""So many threads that were given up may still compute. With them no new grammar is taken, so that they cannot occupy
every core: nothing can stop them.
"""
POLL_SECONDS = 0.05
JOIN_SECONDS = 1.0

Work = tuple["Future[None]", Callable[..., object], tuple[Any, ...]]


class MaskThreads:
    """The threads. They do not keep the process from ending.

    Args:
        count: number of threads.
        seconds: most time for one piece of work.
    """

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[Future[None], float] = {}
        self._given_up: set[Future[None]] = set()
        self._threads: list[threading.Thread] = []
        for _ in range(count):
            self._start()

    @property
    def overrun(self) -> bool:
        """Whether :data:`MAX_GIVEN_UP` threads that were given up still compute."""
        with self._lock:
            return len(self._given_up) >= MAX_GIVEN_UP

    def submit(self, work: Callable[..., object], *arguments: Any) -> Future[None]:
        future: Future[None] = Future()
        self._queue.put((future, work, arguments))
        return future

    def join(self, future: Future[None]) -> None:
        """Wait until work has ended, or was cancelled.

        Raises:
            RequestError: it takes too long. It may go on, in a thread that was given up.
        """
        wait([future], self._seconds)
        while not future.done():
            self._give_up_late_ones()
            with self._lock:
                if future in self._given_up:
                    raise RequestError(
                        f"the grammar takes more than {self._seconds:g} s for one token",
                        "make it simpler",
                        param=PARAM,
                    )
            wait([future], POLL_SECONDS)

    def shutdown(self) -> None:
        """End the threads once they have nothing to do, and wait for them, though not for long."""
        for _ in self._threads:
            self._queue.put(None)
        end = time.monotonic() + JOIN_SECONDS
        for thread in list(self._threads):
            thread.join(max(0.0, end - time.monotonic()))

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name="grammar", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            future, work, arguments = item
            if not future.set_running_or_notify_cancel():
                continue
            with self._lock:
                self._running[future] = time.monotonic()
            try:
                work(*arguments)
            except BaseException as error:  # a panic of an extension module is no Exception; whoever waits gets it
                future.set_exception(error)
            else:
                future.set_result(None)
            with self._lock:
                self._running.pop(future, None)
                if future in self._given_up:  # another thread has its place
                    self._given_up.remove(future)
                    self._threads.remove(threading.current_thread())
                    return
            del item, future, work, arguments  # which hold a sequence

    def _give_up_late_ones(self) -> None:
        """Give up all that take too long: what is waited for may not have begun because of others."""
        now = time.monotonic()
        with self._lock:
            late = [future for future, began in self._running.items() if now - began > self._seconds]
            for future in late:
                del self._running[future]
                self._given_up.add(future)
        for _ in late:
            self._start()
