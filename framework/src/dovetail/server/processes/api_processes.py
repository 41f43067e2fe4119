"""Starts and restarts the API processes of a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from dovetail.api.errors import DovetailError
from dovetail.engine.process.engine_client import LAST_MESSAGES_SECONDS
from dovetail.engine.process.failures import describe_exit
from dovetail.engine.process.ipc import on_exit
from dovetail.python_path import child_environment, python_command
from dovetail.server.http.listen import ListenSockets
from dovetail.server.processes.relay_messages import WorkerSetup
from dovetail.utils import logs

MAX_CRASHES, CRASH_WINDOW_SECONDS = 5, 600.0
"""If more processes crash within this time, the server stops: a restart will not help."""


class CrashCounter:
    """Counts crashed processes.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: deque[float] = deque()

    def record(self) -> bool:
        """Count one crash. Returns whether the process may be restarted."""
        now = self._clock()
        self._times.append(now)
        while self._times[0] < now - CRASH_WINDOW_SECONDS:
            self._times.popleft()
        return len(self._times) <= MAX_CRASHES


@dataclass(eq=False)
class ApiProcess:
    """One API process.

    Attributes:
        number: from 1; a replacement has the same.
        listening: whether it accepts connections.
    """

    number: int
    process: subprocess.Popen[bytes]
    listening: bool = False
    exited: asyncio.Event = field(default_factory=asyncio.Event)

    def send_setup(self, setup: WorkerSetup) -> None:
        """Send the process its setup. Blocks until the process reads it."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended already, which is noticed elsewhere
            self.process.stdin.write(msgspec.json.encode(setup) + b"\n")
            self.process.stdin.flush()  # and stays open: its end would be that of the process


class ApiProcesses:
    """All API processes. A process that ends is restarted, until :meth:`begin_shutdown` was called.

    Args:
        setup: the setup of every process, without its own token, number and socket.
        listen_sockets: the source of each process's listening socket.
        on_process_exit: called with the token and the number of each process that has ended.

    Attributes:
        ready: set when all of them accept connections for the first time.
        failure: set to the exception that ends the server.
    """

    def __init__(
        self, setup: WorkerSetup, listen_sockets: ListenSockets, on_process_exit: Callable[[bytes, int], object]
    ) -> None:
        self._setup = setup
        self._listen_sockets = listen_sockets
        self._on_process_exit = on_process_exit
        self._crashes = CrashCounter()
        self._shutting_down = False
        self._by_token: dict[bytes, ApiProcess] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start(self, count: int) -> None:
        """Start the processes.

        Raises:
            DovetailError: see :meth:`ListenSockets.open_for`.
        """
        for number in range(1, count + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        token = secrets.token_bytes(16)
        with self._listen_sockets.open_for(number) as sock:
            process = subprocess.Popen(
                python_command("-m", "dovetail.server.processes.api_worker"),
                stdin=subprocess.PIPE,
                env=child_environment(),
                pass_fds=(sock, self._setup.counters),
                process_group=0,  # so that Ctrl+C does not reach it before it can ignore it
            )
        worker = self._by_token[token] = ApiProcess(number, process)
        loop = asyncio.get_running_loop()
        on_exit(process, lambda code: loop.call_soon_threadsafe(self._on_exit, token, worker, code))
        setup = msgspec.structs.replace(self._setup, token=token, number=number, socket=sock)
        # The pipe may be smaller than the setup, and other processes must be served while this one starts.
        task = asyncio.create_task(asyncio.to_thread(worker.send_setup, setup))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _on_exit(self, token: bytes, worker: ApiProcess, code: int) -> None:
        # What it said before it went may still be in the socket.
        delay = 0 if self._shutting_down else LAST_MESSAGES_SECONDS
        asyncio.get_running_loop().call_later(delay, self._handle_exit, token, worker, code)

    def _handle_exit(self, token: bytes, worker: ApiProcess, code: int) -> None:
        del self._by_token[token]
        worker.exited.set()
        self._on_process_exit(token, worker.number)
        if self._shutting_down or self.failure.done():
            return
        how = f"API process {worker.number} ended ({describe_exit(code)})"
        if not self._crashes.record():
            self.fail(DovetailError(f"{how}, as did {MAX_CRASHES} before it", "see the messages above"))
            return
        logs.announce(f"{how}; its connections are lost, and it is being started again", logging.ERROR)
        try:
            self._start(worker.number)
        except DovetailError as error:
            self.fail(error)

    def fail(self, error: DovetailError) -> None:
        """End the server with this exception."""
        if not self._shutting_down and not self.failure.done():
            self.failure.set_exception(error)

    def mark_listening(self, token: bytes) -> None:
        """Note that a process accepts connections."""
        if worker := self._by_token.get(token):
            worker.listening = True
        if all(worker.listening for worker in self._by_token.values()):
            self.ready.set()

    def has_process(self, token: bytes) -> bool:
        return token in self._by_token

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self._by_token))

    def begin_shutdown(self) -> None:
        """Stop restarting processes, and kill those that do not accept connections yet."""
        self._shutting_down = True
        for worker in self._by_token.values():
            if not worker.listening:
                worker.process.kill()

    async def wait_for_exit(self) -> None:
        """Wait until all processes have ended."""
        await asyncio.gather(*(worker.exited.wait() for worker in self._by_token.values()))

    def kill(self) -> None:
        """Kill the remaining processes."""
        self.begin_shutdown()
        for worker in self._by_token.values():
            worker.process.kill()
            worker.process.wait()
