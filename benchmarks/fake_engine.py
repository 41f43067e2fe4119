"""An engine that computes nothing: every sequence gets one token in each step, as fast as the steps are taken. What it shows is the server's own speed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from dovetail.engine import messages as m

VOCABULARY = range(1000, 9000)
CATCH_UP_SECONDS = 0.02
"""How far steps may lag behind the rate and be made up for: timers are not that exact."""
FRAMES = 16
"""Steps that are encoded once and sent in turn, so that encoding them costs the server's process nothing."""


class FakeChild:
    """Stands where the engine's process would (:class:`dovetail.engine.process.engine_client.EngineHandle`).

    Args:
        rate: tokens a second over all sequences; 0 for a step whenever the last one was taken.
    """

    def __init__(self, max_num_seqs: int = 1024, rate: float = 0) -> None:
        self.rate = rate
        self._due = 0.0
        self._info = m.EngineInfo(32768, max_num_seqs, "no memory", {}, "nothing")
        self._left: dict[str, int] = {}
        self._frames: list[bytes] = []
        self._steps = 0
        self._work = asyncio.Event()
        self._told = False
        self.tokens = 0

    def send(self, message: m.Message) -> None:
        match message:
            case m.NewRequest(params=params):
                self._left |= dict.fromkeys(message.ids, params.max_tokens or 16)
                self._frames.clear()
                self._work.set()
            case m.Abort(ids=ids):
                for name in ids:
                    self._left.pop(name, None)
                self._frames.clear()

    async def receive(self) -> m.FromEngine:
        if not self._told:
            self._told = True
            return self._info
        await self._pace()
        while not self._left:
            self._work.clear()
            await self._work.wait()
        self.tokens += len(self._left)
        return m.decode_from_engine(self._frame())

    async def _pace(self) -> None:
        now = time.monotonic()
        if self.rate and self._left:
            self._due = max(self._due, now - CATCH_UP_SECONDS) + len(self._left) / self.rate
            if self._due > now:
                await asyncio.sleep(self._due - now)
                return
        # Whoever the last step woke runs before the next step comes.
        await asyncio.sleep(0)

    def _frame(self) -> bytes:
        ended = [name for name, left in self._left.items() if left == 1]
        for name in self._left:
            self._left[name] -= 1
        if ended:
            frame = self._encode(set(ended))
            for name in ended:
                del self._left[name]
            self._frames.clear()
            return frame
        if len(self._frames) < FRAMES:
            self._frames.append(self._encode(set()))
        self._steps += 1
        return self._frames[self._steps % len(self._frames)]

    def _encode(self, ended: set[str]) -> bytes:
        outputs = [
            m.TokenOutput(name, [random.choice(VOCABULARY)], "length" if name in ended else None) for name in self._left
        ]
        return m.encode(m.StepOutputs(outputs, m.EngineStats(running=len(outputs))))

    def on_exit(self, callback: Callable[[int], object]) -> None:
        """It never ends by itself."""

    def wait(self, seconds: float) -> None:
        pass

    def kill(self) -> None:
        pass
