"""One engine for several API processes: whose request is whose, and who has to know what."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dovetail.api.errors import EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.process.failures import failure
from dovetail.engine.process.link import EngineLink
from dovetail.server.processes.relay_messages import Gone, Seen

STATS_SECONDS = 0.1
"""How old the statistics may be in a process that has no outputs to get."""
SEEN_SECONDS = 2.0
"""The longest that an answer waits for processes that do not say that they have seen what it changed."""


class RelayedEngine(EngineLink):
    """The engine as the hub has it: what it gives goes to a :class:`Relay`, once there is one."""

    relay: Relay | None = None

    def send(self, message: m.Message) -> None:
        if self.alive:
            self._child.send(message)

    def _take(self, outputs: list[m.TokenOutput]) -> None:
        if self.relay is not None:
            self.relay.take(outputs, self.stats)

    def _handle(self, message: m.FromEngine) -> None:
        super()._handle(message)
        if self.relay is not None and isinstance(message, m.State):
            self.relay.tell_state(message)


@dataclass(slots=True)
class _Peer:
    """An API process.

    Attributes:
        told: when it got statistics.
        unseen: states that it has not said it saw.
    """

    told: float = 0.0
    unseen: int = 0


class Relay:
    """Passes messages between an engine, or its successor, and API processes that come and go.

    The engine sees one client, and each process an engine of its own: request ids are of one kind each, and a call is answered to whom
    it came from, once every process knows what it changed.

    Args:
        send: gives a message to a process.
        clock: seconds, monotonic.
    """

    def __init__(self, send: Callable[[bytes, m.Message], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._engine: RelayedEngine | None = None
        self._gone: Gone | None = None
        self._peers: dict[bytes, _Peer] = {}
        self._owners: dict[str, bytes] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._seen = asyncio.Event()

    # -- the engine's side

    def serve(self, engine: RelayedEngine) -> None:
        """From now on this is the engine."""
        self._engine, self._gone = engine, None
        engine.relay = self
        for name in self._peers:
            self._introduce(name, engine)

    def lose(self, reason: str, restarting: bool) -> None:
        """There is no engine; each process tells its clients."""
        self._gone = Gone(reason, restarting)
        self._owners.clear()
        for name in self._peers:
            self._send(name, self._gone)

    def take(self, outputs: list[m.TokenOutput], stats: m.EngineStats) -> None:
        """Give each process its part of what a step gave."""
        owners = self._owners
        parts: dict[bytes, list[m.TokenOutput]] = {}
        for output in outputs:
            owner = owners.get(output.id)
            if owner is None:  # it was aborted meanwhile, or its process has gone
                continue
            if owner in parts:
                parts[owner].append(output)
            else:
                parts[owner] = [output]
            if output.finish_reason is not None:
                del owners[output.id]
        now = self._clock()
        for name, peer in self._peers.items():
            part = parts.get(name)
            # The steps of an idle engine are few, and nothing comes after them that would tell the rest.
            if part is not None or not stats.running or now - peer.told >= STATS_SECONDS:
                peer.told = now
                self._send(name, m.StepOutputs(part or [], stats))

    def tell_state(self, state: m.State) -> None:
        for name, peer in self._peers.items():
            self._tell_state(name, peer, state)

    def _tell_state(self, name: bytes, peer: _Peer, state: m.State) -> None:
        peer.unseen += 1
        self._seen.clear()
        self._send(name, state)

    # -- the processes' side

    def join(self, name: bytes) -> None:
        """A process takes messages."""
        self._peers[name] = _Peer()
        if self._engine is not None:
            self._introduce(name, self._engine)
        if self._gone is not None:
            self._send(name, self._gone)

    def _introduce(self, name: bytes, engine: RelayedEngine) -> None:
        assert engine.info is not None
        peer = self._peers[name]
        peer.told = self._clock()
        self._send(name, engine.info)
        self._send(name, m.StepOutputs([], engine.stats))
        self._tell_state(name, peer, m.State(engine.adapters, engine.sleeping))

    def leave(self, name: bytes) -> None:
        """A process has gone: nobody waits for its requests."""
        self._peers.pop(name, None)
        orphans = [request for request, owner in self._owners.items() if owner == name]
        for request in orphans:
            del self._owners[request]
        if orphans:
            self._forward(m.Abort(orphans))
        self._check_seen()

    def receive(self, name: bytes, message: m.NewRequest | m.Abort | m.Call | Seen) -> None:
        """A process wants something of the engine. Without an engine nothing is sent: the process was told, or will be in a moment."""
        match message:
            case m.NewRequest(id=request):
                if self._gone is None:
                    self._owners[request] = name
                    self._forward(message)
            case m.Abort(ids=ids):
                for request in ids:
                    self._owners.pop(request, None)
                self._forward(message)
            case m.Call():
                call = asyncio.create_task(self._call(name, message))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            case Seen():
                if peer := self._peers.get(name):
                    peer.unseen -= 1
                    self._check_seen()

    def _forward(self, message: m.Message) -> None:
        if self._engine is not None and self._gone is None:
            self._engine.send(message)

    async def _call(self, name: bytes, call: m.Call) -> None:
        try:
            answer = m.Answer(call.number, await self._do(call))
        except Exception as error:
            answer = m.Answer(call.number, None, failure(error))
        await self._all_have_seen()
        if name in self._peers:
            self._send(name, answer)

    async def _do(self, call: m.Call) -> Any:
        if self._engine is None or self._gone is not None:
            raise EngineDeadError(self._gone.reason if self._gone else "the engine is not ready")
        return await self._engine.call(call.operation, *call.arguments)

    async def _all_have_seen(self) -> None:
        """So that a client who was answered finds the change wherever it asks next."""
        if any(peer.unseen > 0 for peer in self._peers.values()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._seen.wait(), SEEN_SECONDS)

    def _check_seen(self) -> None:
        if all(peer.unseen <= 0 for peer in self._peers.values()):
            self._seen.set()
