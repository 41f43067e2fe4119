"""A server of several API processes: the hub binds the port, loads the engine, starts the processes, and relays
messages between them and the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import zmq

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.failures import rebuild_error
from dovetail.engine.process.ipc import PrivateSocket
from dovetail.kernel.plan import Plan
from dovetail.server.http.keys import load_api_keys
from dovetail.server.http.listen import ListenSockets, bind, check_tls, close_socket, startup_message
from dovetail.server.http.user_middleware import load_middleware
from dovetail.server.observe.counters import Counters
from dovetail.server.observe.tracing import check_tracing
from dovetail.server.processes.api_processes import ApiProcesses
from dovetail.server.processes.engine_supervision import Supervisor
from dovetail.server.processes.loop import run as run_loop
from dovetail.server.processes.relay import Relay, RelayedEngine
from dovetail.server.processes.relay_messages import Listening, Register, Shutdown, StateAck, WorkerSetup, decode_to_hub
from dovetail.server.processes.signals import Signals, run_until_signal
from dovetail.server.settings import ServerSettings
from dovetail.server.stored.database import create_store_file
from dovetail.utils import logs
from dovetail.utils.panics import reraise_control_flow

T = TypeVar("T")
MakeEngine = Callable[[], Awaitable[RelayedEngine]]
EXIT_SECONDS = 5.0
"""Seconds for a process to exit after its requests have ended."""


def serve_processes(make_engine: MakeEngine, settings: ServerSettings, plan: Plan, args: EngineArgs) -> int:
    """Like :func:`dovetail.server.processes.run.serve`, with :attr:`~ServerSettings.api_server_count` processes that
    serve HTTP.

    Args:
        make_engine: loads the model of ``plan`` and ``args``.

    Raises:
        DovetailError: as there; also if API processes crash again and again.
    """
    logs.configure(settings.log_format, settings.log_level, config_file=settings.log_config_file)
    settings = load_api_keys(settings)
    check_tls(settings)
    check_tracing(settings)
    load_middleware(settings.middleware)  # what cannot be had is said before a model is loaded
    sock = bind(settings)
    try:
        return run_loop(_serve(make_engine, settings, plan, args, sock))
    finally:
        close_socket(settings, sock)


async def _serve(
    make_engine: MakeEngine, settings: ServerSettings, plan: Plan, args: EngineArgs, sock: socket.socket
) -> int:
    with Signals() as signals:
        if settings.exit_with_stdin:
            signals.watch_stdin()
        hub = _Hub(settings, plan, args, ListenSockets(settings, sock))
        try:
            loaded = await run_until_signal(lambda: hub.wait_unless_failed(make_engine()), signals)
            if loaded is None:
                assert signals.number is not None
                return 128 + signals.number
            reason = await hub.serve(loaded, make_engine, signals)
        finally:
            signals.restore()
            await hub.stop()
    if reason is not None:
        raise EngineDeadError(f"the engine ended while serving: {reason}")
    return 0


class _Hub:
    """Owns the API processes and the engine's supervisor. The constructor starts the processes, which initialise while
    the engine loads.
    """

    def __init__(self, settings: ServerSettings, plan: Plan, args: EngineArgs, listen_sockets: ListenSockets) -> None:
        self.settings = settings
        self.plan = plan
        self.listen_sockets = listen_sockets
        self.counters = Counters.create(settings.api_server_count + 1)
        assert self.counters.fd is not None
        self.supervisor: Supervisor[RelayedEngine] | None = None
        self.private = PrivateSocket(zmq.ROUTER)
        self.relay = Relay(self._send)
        setup = WorkerSetup(
            address=self.private.address,
            token=b"",
            number=0,
            settings=settings.model_dump_json(),
            plan=plan.model_dump_json(),
            args=args.to_json(with_token=True),  # they find the adapters that requests name
            socket=-1,
            counters=self.counters.fd,
            created=int(time.time()),
            store=create_store_file(self.private.folder),
        )
        self.processes = ApiProcesses(setup, listen_sockets, self._on_process_exit)
        self.processes.start(settings.api_server_count)
        self.reader_task = asyncio.create_task(self._read())

    async def wait_unless_failed(self, work: Awaitable[T]) -> T:
        """Wait for something while the processes run.

        Raises:
            DovetailError: the processes have failed.
        """
        task = asyncio.ensure_future(work)
        either: set[asyncio.Future[Any]] = {task, self.processes.failure}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self.processes.failure.result()
            return await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def serve(self, engine: RelayedEngine, make_engine: MakeEngine, signals: Signals) -> str | None:
        """Serve until told to stop, or until the engine has ended. Returns why it ended."""
        supervisor = self.supervisor = Supervisor(engine, make_engine, self._engine_changed)
        self.listen_sockets.claim()
        self._engine_changed()
        ended, first = asyncio.create_task(supervisor.ended()), asyncio.create_task(signals.first.wait())
        reasons: set[asyncio.Task[Any]] = {ended, first}
        announced = asyncio.create_task(self._announce())
        try:
            await self.wait_unless_failed(asyncio.wait(reasons, return_when=asyncio.FIRST_COMPLETED))
            reason = ended.result() if ended.done() else None
        finally:
            self.processes.begin_shutdown()
            for task in (ended, first, announced):
                task.cancel()
            self.listen_sockets.close()
        if reason is None:
            await self._drain(signals)
        else:  # they know already
            await self._wait_for_processes(0)
        return reason

    async def _announce(self) -> None:
        await self.processes.ready.wait()
        logs.announce(startup_message(self.settings, self.plan.model, self.listen_sockets.address), output=True)

    async def _drain(self, signals: Signals) -> None:
        self._broadcast(Shutdown())
        draining = asyncio.create_task(self._wait_for_processes(self.settings.shutdown_timeout))
        second = asyncio.create_task(signals.second.wait())
        await asyncio.wait({draining, second}, return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            self._broadcast(Shutdown())
            await self._wait_for_processes(0)
        for task in (draining, second):
            task.cancel()

    async def _wait_for_processes(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.processes.wait_for_exit(), seconds + EXIT_SECONDS)

    async def stop(self) -> None:
        """Stop all processes and the engine."""
        self.processes.kill()
        self.reader_task.cancel()
        if self.supervisor is not None:
            await self.supervisor.stop()
        self.private.close()

    def _engine_changed(self) -> None:
        assert self.supervisor is not None
        if self.supervisor.alive:
            self.relay.set_engine(self.supervisor.engine)
        else:
            self.relay.set_engine_lost(self.supervisor.dead_reason, self.supervisor.restarting)

    def _on_process_exit(self, token: bytes, number: int) -> None:
        self.relay.remove_process(token)
        self.counters.clear_gauges(number)

    def _broadcast(self, message: m.Message) -> None:
        for token in self.processes:
            self._send(token, message)

    def _send(self, token: bytes, message: m.Message) -> None:
        self.private.socket.send_multipart([token, m.encode(message)])

    async def _read(self) -> None:
        try:
            await self._dispatch()
        except BaseException as error:  # a bug of ours: fail whoever waits for it
            reraise_control_flow(error)
            problem = f"what an API process sent cannot be handled ({type(error).__name__}: {error})"
            self.processes.fail(DovetailError(problem))
            raise

    async def _dispatch(self) -> None:
        while True:
            token, frame = await self.private.socket.recv_multipart()
            if not self.processes.has_process(token):
                continue
            match decode_to_hub(frame):
                case Register():
                    self.relay.add_process(token)
                case Listening():
                    self.processes.mark_listening(token)
                case m.Failed() as failed:
                    self.processes.fail(rebuild_error(failed, "the API"))
                case (m.NewRequest() | m.Abort() | m.Call() | StateAck()) as message:
                    self.relay.receive(token, message)
