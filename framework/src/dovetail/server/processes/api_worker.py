"""An API process of a server that has several: ``python -m dovetail.server.processes.api_worker``.

It reads its setup from standard input (:class:`~dovetail.server.processes.relay_messages.WorkerSetup`). Nothing more is
sent there; when the pipe closes, the hub has ended, and this process exits.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable

import msgspec
import zmq
import zmq.asyncio

from dovetail.api.errors import DovetailError, EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.process.failures import build_failed_message
from dovetail.engine.process.ipc import exit_with_parent
from dovetail.engine.setup import load_tokenizer
from dovetail.kernel.plan import Plan
from dovetail.server.app import build_app
from dovetail.server.observe.counters import Counters
from dovetail.server.observe.request_log import set_up_logs
from dovetail.server.processes.http_server import serve_http
from dovetail.server.processes.loop import run as run_loop
from dovetail.server.processes.relay_messages import (
    EngineLost,
    Listening,
    Register,
    Shutdown,
    StateAck,
    WorkerSetup,
    decode_from_hub,
)
from dovetail.server.processes.signals import Signals
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.responses.background import fail_orphaned_responses
from dovetail.server.settings import ServerSettings
from dovetail.utils.panics import reraise_control_flow

LAST_WORDS_MILLISECONDS = 1000


class HubLink:
    """The hub, as a :class:`~dovetail.engine.process.engine_client.EngineHandle`.

    Attributes:
        on_control: called with messages from the hub itself.
    """

    on_control: Callable[[EngineLost | Shutdown], object]

    def __init__(self, setup: WorkerSetup) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, setup.token)
        self._socket.setsockopt(zmq.LINGER, LAST_WORDS_MILLISECONDS)
        self._socket.set_hwm(0)
        self._socket.connect(setup.address)
        self.send(Register())

    def send(self, message: m.Message) -> None:
        self._socket.send(m.encode(message))

    async def receive(self) -> m.FromEngine:
        while True:
            frame: bytes = await self._socket.recv()
            message = decode_from_hub(frame)
            if not isinstance(message, EngineLost | Shutdown):
                return message
            self.on_control(message)

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """Does nothing: this process ends with the hub, so nobody is left to call."""

    def wait(self, seconds: float) -> None:
        """Does nothing: this process does not wait for the hub."""

    def kill(self) -> None:
        self._socket.close()
        self._context.term()


class WorkerEngine(AsyncEngine):
    """A client of the hub's engine, and of its replacement."""

    _restarting = False

    @property
    def restarting(self) -> bool:
        return self._restarting

    def mark_lost(self, lost: EngineLost) -> None:
        """Note that the hub has no engine."""
        self._restarting = lost.restarting
        self._fail_waiting(EngineDeadError(lost.reason))
        if not lost.restarting:
            self._dead_event.set()

    def _handle(self, message: m.FromEngine) -> None:
        if isinstance(message, m.EngineInfo) and self.info is not None:
            self.info, self.dead_reason, self._restarting = message, "", False
            return
        super()._handle(message)
        if isinstance(message, m.State):
            self._child.send(StateAck())

    async def stop(self) -> None:
        """Disconnect from the hub. The hub stops the engine itself."""
        self._reader.cancel()
        self._child.kill()


async def _serve(setup: WorkerSetup, link: HubLink) -> None:
    settings = ServerSettings.model_validate_json(setup.settings)
    set_up_logs(settings)
    with TemplatePool(settings) as templates:  # its process starts while the tokenizer is read
        await _serve_with(setup, settings, link, templates)


async def _serve_with(setup: WorkerSetup, settings: ServerSettings, link: HubLink, templates: TemplatePool) -> None:
    plan = Plan.model_validate_json(setup.plan)
    args = EngineArgs.model_validate_json(setup.args)
    signals = Signals()
    tokenizer = await asyncio.to_thread(load_tokenizer, plan, args.chat_template, args.chat_template_content_format)
    engine = WorkerEngine(plan, args, tokenizer)
    templates.use(tokenizer)

    def handle_control(message: EngineLost | Shutdown) -> None:
        if isinstance(message, EngineLost):
            engine.mark_lost(message)
        else:
            signals.deliver()

    link.on_control = handle_control
    await engine.attach(link)
    sock = socket.socket(fileno=setup.socket)
    counters = Counters.open(setup.counters, setup.number)
    app = build_app(engine, settings, counters, setup.created, setup.store, templates)
    await fail_orphaned_responses(app.state.context)
    await serve_http(app, sock, signals, lambda: link.send(Listening()))


async def _run(setup: WorkerSetup) -> int:
    link = HubLink(setup)
    try:
        await _serve(setup, link)
    except BaseException as error:
        reraise_control_flow(error)
        link.send(build_failed_message(error))
        return 1 if isinstance(error, DovetailError) else 70
    finally:
        link.kill()
    return 0


def main() -> int:
    line = sys.stdin.buffer.readline()
    if not line:  # the hub has ended already
        return 0
    setup = msgspec.json.decode(line, type=WorkerSetup)
    exit_with_parent(setup.address)
    return run_loop(_run(setup))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # An ordinary exit would wait for a text that is being tokenized in a thread, which cannot be stopped.
    os._exit(code)
