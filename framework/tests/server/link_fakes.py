"""An engine's process that is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dovetail.engine import messages as m

INFO = m.EngineInfo(max_model_len=100, max_num_seqs=3, budget="", kernels={}, device="none")


class FakeChild:
    """Keeps what it is sent, as it would arrive; answers as the test says."""

    def __init__(self, decode: Callable[[bytes], Any] = m.decode_to_engine) -> None:
        self.decode = decode
        self.sent: list[Any] = []
        self.said: asyncio.Queue[m.Message] = asyncio.Queue()
        self.killed = False
        self.exit: Callable[[int], object] = lambda code: None

    def send(self, message: m.Message) -> None:
        self.sent.append(self.decode(m.encode(message)))

    async def receive(self) -> m.FromEngine:
        return m.decode_from_engine(m.encode(await self.said.get()))

    def say(self, message: m.Message) -> None:
        self.said.put_nowait(message)

    def on_exit(self, callback: Callable[[int], object]) -> None:
        self.exit = callback

    def wait(self, seconds: float) -> None: ...

    def kill(self) -> None:
        self.killed = True


def fake_plan() -> Any:
    """What a client of the engine reads of a Plan."""
    return SimpleNamespace(
        max_model_len=200,
        config={},
        build_model_config=lambda: SimpleNamespace(vocab_size=50, hidden_size=8),
        checkpoint=SimpleNamespace(generation_config={}),
        processor=None,
        tasks=("generate",),
    )


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)
