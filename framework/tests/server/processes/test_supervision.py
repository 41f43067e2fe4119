"""The engine's second life."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from server_fakes import FakeEngine

from dovetail.api.errors import EngineDeadError
from dovetail.engine.request.params import SamplingParams
from dovetail.server.processes.engine_supervision import SupervisedEngine


class Factory:
    """Makes engines, and remembers them."""

    def __init__(
        self, wait: float = 0.0, error: Exception | None = None, adapters: dict[str, str] | None = None
    ) -> None:
        self.wait = wait
        self.adapters = adapters or {}
        self.error = error
        self.made: list[FakeEngine] = []

    async def __call__(self) -> FakeEngine:
        await asyncio.sleep(self.wait)
        if self.error:
            raise self.error
        self.made.append(FakeEngine(max_model_len=1000, adapters=dict(self.adapters)))
        return self.made[-1]


async def true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)


async def answer(engine: SupervisedEngine) -> str:
    batches = engine.generate("a", [1], SamplingParams(max_tokens=100))
    return "".join([delta.text async for batch in batches for delta in batch])


def test_a_dead_engine_has_a_successor(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        first, factory = FakeEngine(), Factory(wait=0.05)
        engine = SupervisedEngine(first, factory)
        assert (engine.alive, engine.restarting) == (True, False)
        first.die("it was killed")
        assert (engine.alive, engine.restarting, engine.dead_reason) == (False, True, "it was killed")
        with pytest.raises(EngineDeadError, match="it was killed"):
            engine.generate("a", [1], SamplingParams())
        await true(lambda: engine.alive)
        assert first.stopped
        assert engine.max_model_len == 1000
        assert not engine.restarting
        assert (await answer(engine)).startswith("Paris")
        await engine.stop()
        assert factory.made[0].stopped

    asyncio.run(main())
    assert "the engine died: it was killed; it is being started again" in capsys.readouterr().err


def test_a_second_death_is_the_end() -> None:
    async def main() -> None:
        first, factory = FakeEngine(), Factory()
        engine = SupervisedEngine(first, factory)
        first.die()
        await true(lambda: engine.alive)
        factory.made[0].die("out of memory")
        assert not engine.restarting
        assert await asyncio.wait_for(engine.ended(), 1) == "it died again: out of memory"
        assert not engine.alive
        assert len(factory.made) == 1
        await engine.stop()

    asyncio.run(main())


@pytest.mark.parametrize("error", [RuntimeError("no memory"), EngineDeadError("no memory")])
def test_a_successor_that_does_not_start_is_the_end(error: Exception) -> None:
    async def main() -> None:
        first = FakeEngine()
        engine = SupervisedEngine(first, Factory(error=error))
        first.die("it was killed")
        assert await asyncio.wait_for(engine.ended(), 1) == "it was killed; starting it again failed: no memory"
        assert (engine.alive, engine.restarting) == (False, False)
        await engine.stop()

    asyncio.run(main())


def test_stopping_while_the_successor_loads_does_not_wait_for_it() -> None:
    async def main() -> None:
        first, factory = FakeEngine(), Factory(wait=60)
        engine = SupervisedEngine(first, factory)
        first.die()
        await true(lambda: first.stopped)
        await asyncio.wait_for(engine.stop(), 1)
        assert not factory.made

    asyncio.run(main())


def test_the_successor_has_the_adapters_of_the_first_where_it_still_can(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> None:
        first = FakeEngine(adapters={"flag": "/flag", "kept": "/kept"})
        factory = Factory(adapters={"flag": "/flag", "kept": "/kept"})
        engine = SupervisedEngine(first, factory)
        for name in ("one", "two", "three"):
            await engine.add_adapter(name, f"/{name}")
        await engine.remove_adapter("two")
        await engine.remove_adapter("flag")
        first.adapters["three"] = "/gone"
        first.die()
        await true(lambda: engine.alive)
        assert engine.adapters == {"kept": "/kept", "one": "/one"}
        await engine.stop()

    asyncio.run(main())
    assert "the adapter three is no longer served: there is no such folder" in capsys.readouterr().err
