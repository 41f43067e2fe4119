"""Routes messages between one engine and several API processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dovetail.api.errors import EngineDeadError
from dovetail.engine import messages as m
from dovetail.engine.process.engine_client import EngineClient
from dovetail.engine.process.failures import describe_error
from dovetail.server.processes.relay_messages import EngineLost, StateAck

STATS_SECONDS = 0.1
"""Maximum age of the statistics in a process that receives no outputs."""
ACK_SECONDS = 2.0
"""How long the answer to a call waits for the other processes to acknowledge the new state."""


class RelayedEngine(EngineClient):
    """The hub's client of the engine. It passes the engine's messages to a :class:`Relay`, once there is one."""

    relay: Relay | None = None

    def send(self, message: m.Message) -> None:
        if self.alive:
            self._child.send(message)

    def _take(self, outputs: list[m.TokenOutput]) -> None:
        if self.relay is not None:
            self.relay.dispatch_outputs(outputs, self.stats)

    def _handle(self, message: m.FromEngine) -> None:
        super()._handle(message)
        if self.relay is not None and isinstance(message, m.State):
            self.relay.broadcast_state(message)


@dataclass(slots=True)
class _Peer:
    """An API process.

    Attributes:
        stats_sent_at: when it last received statistics.
        num_unacked: states that it has not acknowledged yet.
    """

    stats_sent_at: float = 0.0
    num_unacked: int = 0


class Relay:
    """Routes messages between an engine, or its replacement, and API processes that start and end.

    The engine sees one client; each process sees its own engine. Request ids are unique. The answer to a call goes to
    its sender, after all processes acknowledged the new state.

    Args:
        send: sends a message to a process.
        clock: seconds, monotonic.
    """

    def __init__(self, send: Callable[[bytes, m.Message], object], clock: Callable[[], float] = time.monotonic) -> None:
        self._send = send
        self._clock = clock
        self._engine: RelayedEngine | None = None
        self._lost: EngineLost | None = None
        self._peers: dict[bytes, _Peer] = {}
        self._owners: dict[str, bytes] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._all_acked = asyncio.Event()

    # -- the engine's side

    def set_engine(self, engine: RelayedEngine) -> None:
        """Use this engine from now on."""
        self._engine, self._lost = engine, None
        engine.relay = self
        for name in self._peers:
            self._send_engine_info(name, engine)

    def set_engine_lost(self, reason: str, restarting: bool) -> None:
        """Tell each process that there is no engine."""
        self._lost = EngineLost(reason, restarting)
        self._owners.clear()
        for name in self._peers:
            self._send(name, self._lost)

    def dispatch_outputs(self, outputs: list[m.TokenOutput], stats: m.EngineStats) -> None:
        """Send each process its part of a step's outputs."""
        owners = self._owners
        parts: dict[bytes, list[m.TokenOutput]] = {}
        for output in outputs:
            owner = owners.get(output.id)
            if owner is None:  # it was aborted meanwhile, or its process has ended
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
            # An idle engine has few steps, and no later message would bring these statistics.
            if part is not None or not stats.running or now - peer.stats_sent_at >= STATS_SECONDS:
                peer.stats_sent_at = now
                self._send(name, m.StepOutputs(part or [], stats))

    def broadcast_state(self, state: m.State) -> None:
        for name, peer in self._peers.items():
            self._send_state(name, peer, state)

    def _send_state(self, name: bytes, peer: _Peer, state: m.State) -> None:
        peer.num_unacked += 1
        self._all_acked.clear()
        self._send(name, state)

    # -- the processes' side

    def add_process(self, name: bytes) -> None:
        """Add a process that is ready to receive."""
        self._peers[name] = _Peer()
        if self._engine is not None:
            self._send_engine_info(name, self._engine)
        if self._lost is not None:
            self._send(name, self._lost)

    def _send_engine_info(self, name: bytes, engine: RelayedEngine) -> None:
        assert engine.info is not None
        peer = self._peers[name]
        peer.stats_sent_at = self._clock()
        self._send(name, engine.info)
        self._send(name, m.StepOutputs([], engine.stats))
        self._send_state(name, peer, m.State(engine.adapters, engine.sleeping))

    def remove_process(self, name: bytes) -> None:
        """Remove a process that has ended, and abort its requests."""
        self._peers.pop(name, None)
        orphans = [request for request, owner in self._owners.items() if owner == name]
        for request in orphans:
            del self._owners[request]
        if orphans:
            self._forward(m.Abort(orphans))
        self._check_acks()

    def receive(self, name: bytes, message: m.NewRequest | m.Abort | m.Call | StateAck) -> None:
        """Handle a process's message to the engine.

        Without an engine the message is dropped: the process knows that there is none, or will know soon.
        """
        match message:
            case m.NewRequest():
                if self._lost is None:
                    self._owners |= dict.fromkeys(message.ids, name)
                    self._forward(message)
            case m.Abort(ids=ids):
                for request in ids:
                    self._owners.pop(request, None)
                self._forward(message)
            case m.Call():
                call = asyncio.create_task(self._call(name, message))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)
            case StateAck():
                if peer := self._peers.get(name):
                    peer.num_unacked -= 1
                    self._check_acks()

    def _forward(self, message: m.Message) -> None:
        if self._engine is not None and self._lost is None:
            self._engine.send(message)

    async def _call(self, name: bytes, call: m.Call) -> None:
        try:
            answer = m.Answer(call.number, await self._run_call(call))
        except Exception as error:
            answer = m.Answer(call.number, None, describe_error(error))
        await self._wait_for_acks()
        if name in self._peers:
            self._send(name, answer)

    async def _run_call(self, call: m.Call) -> Any:
        if self._engine is None or self._lost is not None:
            raise EngineDeadError(self._lost.reason if self._lost else "the engine is not ready")
        return await self._engine.call(call.operation, *call.arguments)

    async def _wait_for_acks(self) -> None:
        """Wait until all processes know the new state.

        The client then sees it, whichever process serves its next request.
        """
        if any(peer.num_unacked > 0 for peer in self._peers.values()):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_acked.wait(), ACK_SECONDS)

    def _check_acks(self) -> None:
        if all(peer.num_unacked <= 0 for peer in self._peers.values()):
            self._all_acked.set()
