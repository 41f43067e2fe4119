"""The API processes of a server, as its hub starts them and starts them again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from dovetail.api.errors import DovetailError
from dovetail.engine.process.failures import exit_words
from dovetail.engine.process.ipc import on_exit
from dovetail.engine.process.link import LAST_WORDS_SECONDS
from dovetail.server.http.listen import Shares
from dovetail.server.processes.relay_messages import Setup
from dovetail.utils import logs

MOST_LOSSES, WINDOW_SECONDS = 5, 600.0
"""A server that loses more processes than that within the time has something wrong with it that another start does not mend."""


class Losses:
    """Counts processes that were lost.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()

    def add(self) -> bool:
        """Count one; whether there is reason to go on."""
        now = self._clock()
        self._times.append(now)
        while self._times[0] < now - WINDOW_SECONDS:
            self._times.popleft()
        return len(self._times) <= MOST_LOSSES


@dataclass(eq=False)
class ApiProcess:
    """One of them.

    Attributes:
        number: from 1; its successor has the same.
        listening: whether it accepts connections.
    """

    number: int
    process: subprocess.Popen[bytes]
    listening: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self, setup: Setup) -> None:
        """Tell it what to do. This waits until it reads."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which is noticed elsewhere
            self.process.stdin.write(msgspec.json.encode(setup) + b"\n")
            self.process.stdin.flush()  # and stays open: its end would be that of the process


class ApiProcesses:
    """All of them. A process that ends before :meth:`retire` was called has a successor.

    Args:
        setup: what each is told, but for its own token, number and socket.
        shares: gives each the socket that it listens on.
        lost: called with the token and the number of each that has ended.

    Attributes:
        ready: set once all of them accept connections for the first time.
        failure: set to the exception because of which the server has to end.
    """

    def __init__(self, setup: Setup, shares: Shares, lost: Callable[[bytes, int], object]) -> None:
        self._setup = setup
        self._shares = shares
        self._lost = lost
        self._losses = Losses()
        self._retired = False
        self._by_token: dict[bytes, ApiProcess] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, count: int) -> None:
        """
        Raises:
            DovetailError: see :meth:`Shares.one`.
        """
        for number in range(1, count + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        token = secrets.token_bytes(16)
        with self._shares.one(number) as sock:
            process = subprocess.Popen(
                [sys.executable, "-m", "dovetail.server.processes.worker"],
                stdin=subprocess.PIPE,
                pass_fds=(sock, self._setup.counters),
                process_group=0,  # so that Ctrl+C does not reach it before it can ignore it
            )
        worker = self._by_token[token] = ApiProcess(number, process)
        loop = asyncio.get_running_loop()
        on_exit(process, lambda code: loop.call_soon_threadsafe(self._exited, token, worker, code))
        setup = msgspec.structs.replace(self._setup, token=token, number=number, socket=sock)
        # Its pipe may be smaller than what it is told, and others want to be served while it starts.
        task = asyncio.create_task(asyncio.to_thread(worker.start, setup))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _exited(self, token: bytes, worker: ApiProcess, code: int) -> None:
        # What it said before it went may still be in the socket.
        delay = 0 if self._retired else LAST_WORDS_SECONDS
        asyncio.get_running_loop().call_later(delay, self._ended, token, worker, code)

    def _ended(self, token: bytes, worker: ApiProcess, code: int) -> None:
        del self._by_token[token]
        worker.gone.set()
        self._lost(token, worker.number)
        if self._retired or self.failure.done():
            return
        how = f"API process {worker.number} ended ({exit_words(code)})"
        if not self._losses.add():
            self.fail(DovetailError(f"{how}, as did {MOST_LOSSES} before it", "see the messages above"))
            return
        logs.say(f"{how}; its connections are lost, and it is being started again", logging.ERROR)
        try:
            self._start(worker.number)
        except DovetailError as error:
            self.fail(error)

    def fail(self, error: DovetailError) -> None:
        """The server has to end."""
        if not self._retired and not self.failure.done():
            self.failure.set_exception(error)

    def listens(self, token: bytes) -> None:
        """A process accepts connections."""
        if worker := self._by_token.get(token):
            worker.listening = True
        if all(worker.listening for worker in self._by_token.values()):
            self.ready.set()

    def knows(self, token: bytes) -> bool:
        return token in self._by_token

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._by_token))

    def retire(self) -> None:
        """From now on nobody has a successor, and those that have no clients yet will have none."""
        self._retired = True
        for worker in self._by_token.values():
            if not worker.listening:
                worker.process.kill()

    async def ended(self) -> None:
        """Wait until there is none left."""
        await asyncio.gather(*(worker.gone.wait() for worker in self._by_token.values()))

    def kill(self) -> None:
        """End those that are left."""
        self.retire()
        for worker in self._by_token.values():
            worker.process.kill()
            worker.process.wait()
