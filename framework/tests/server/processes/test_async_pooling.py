"""Vectors through the engine's client over a process that is none."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from link_fakes import INFO, FakeChild, fake_plan, settled

from dovetail.api.errors import EngineDeadError, RequestError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.request.pooling_params import PoolingParams, floats
from dovetail.kernel.plan_parts import PoolingPlan

VECTOR = struct.pack("<3f", 1, 2, 3)


def run(test: Callable[[AsyncEngine, FakeChild], Awaitable[None]]) -> None:
    async def main() -> None:
        plan = fake_plan()
        plan.model, plan.tasks, plan.tasks_reason = "fake", ("generate", "embed"), "what it was made for"
        plan.pooling = PoolingPlan(type="last", normalize=True, reason="")
        tokenizer: Any = SimpleNamespace()
        engine, child = AsyncEngine(plan, EngineArgs(), tokenizer), FakeChild()
        child.say(INFO)
        await engine.attach(child)
        async with asyncio.timeout(5):
            await test(engine, child)
        await engine.stop()

    asyncio.run(main())


def test_a_prompt_goes_out_with_everything_settled_and_its_vector_comes_back() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        asked = asyncio.create_task(engine.pool("a", [1, 2], PoolingParams(), priority=2, cache_salt="s", adapter="x"))
        await settled()
        (new,) = child.sent
        assert (new.id, new.prompt_token_ids, new.priority, new.cache_salt, new.adapter) == ("a", [1, 2], 2, "s", "x")
        assert new.pooling == PoolingParams(task="embed", use_activation=True, pooling_type="last")
        other = m.TokenOutput("b", [], "stop", vector=b"")
        child.say(
            m.StepOutputs([other, m.TokenOutput("a", [], "stop", vector=VECTOR, cached_tokens=1)], m.EngineStats())
        )
        pooled = await asked
        assert (floats(pooled.vector), pooled.cached_tokens, pooled.error) == ([1, 2, 3], 1, None)
        assert not engine._pooling_futures

    run(test)


def test_streams_and_vectors_come_in_one_step() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        params = SamplingParams(max_tokens=1, detokenize=False)
        stream = engine.generate("s", [1], params)
        first = asyncio.ensure_future(anext(stream))
        vector = asyncio.create_task(engine.pool("v", [1], PoolingParams()))
        await settled()
        outputs = [m.TokenOutput("v", [], "stop", vector=VECTOR), m.TokenOutput("s#0", [7], "length")]
        child.say(m.StepOutputs(outputs, m.EngineStats()))
        assert (await vector).vector == VECTOR
        assert (await first)[0].token_ids == [7]
        await stream.aclose()

    run(test)


@pytest.mark.parametrize("refused", [True, False])
def test_errors_of_the_engine_come_back(refused: bool) -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        asked = asyncio.create_task(engine.pool("a", [1], PoolingParams()))
        await settled()
        child.say(
            m.StepOutputs([m.TokenOutput("a", [], "error", error="no", is_request_error=refused)], m.EngineStats())
        )
        pooled = await asked
        assert (pooled.error, pooled.is_request_error, pooled.vector) == ("no", refused, b"")

    run(test)


def test_whoever_leaves_aborts() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        asked = asyncio.create_task(engine.pool("a", [1], PoolingParams()))
        await settled()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert child.sent[-1] == m.Abort(["a"])
        child.say(m.StepOutputs([m.TokenOutput("a", [], "stop", vector=VECTOR)], m.EngineStats()))
        await settled()
        assert engine.alive

    run(test)


def test_whoever_waits_learns_of_the_end() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        asked = asyncio.create_task(engine.pool("a", [1], PoolingParams()))
        await settled()
        child.exit(-9)
        with pytest.raises(EngineDeadError, match="signal 9"):
            await asked
        assert not any(isinstance(message, m.Abort) for message in child.sent)

    run(test)


@pytest.mark.parametrize(
    ("prompt", "params", "word"),
    [
        ([], {}, "empty"),
        ([1] * 101, {}, "101 tokens"),
        ([50], {}, "50"),
        ([1], {"task": "score"}, "does generate, embed"),
        ([1], {"dimensions": 2}, "Matryoshka"),
    ],
)
def test_what_does_not_fit_is_not_sent(prompt: list[int], params: dict[str, Any], word: str) -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        with pytest.raises(RequestError, match=word):
            await engine.pool("a", prompt, PoolingParams(**params))
        assert not child.sent

    run(test)
