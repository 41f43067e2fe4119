"""The engine's client over a process that is none: what it sends, what it makes of the answers, and what it does when there are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from link_fakes import INFO, FakeChild, fake_plan, settled

from dovetail.api.errors import DovetailError, EngineDeadError, RequestError
from dovetail.engine import messages as m
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.request.params import SamplingParams


@asynccontextmanager
async def attached() -> AsyncIterator[tuple[AsyncEngine, FakeChild]]:
    tokenizer: Any = SimpleNamespace()
    engine, child = AsyncEngine(fake_plan(), EngineArgs(), tokenizer), FakeChild()
    child.say(INFO)
    await engine.attach(child)
    yield engine, child
    await engine.stop()
    assert child.killed


def run(test: Callable[[AsyncEngine, FakeChild], Awaitable[None]]) -> None:
    async def main() -> None:
        async with attached() as (engine, child), asyncio.timeout(5):
            await test(engine, child)

    asyncio.run(main())


def test_limits_are_those_of_the_running_engine() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        assert (engine.max_model_len, engine.max_num_seqs) == (100, 3)

    run(test)


def test_a_call_returns_what_was_answered_to_it() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        calls = [asyncio.create_task(engine.call("sleep", level)) for level in (1, 2)]
        await settled()
        assert [(c.operation, c.arguments) for c in child.sent] == [("sleep", [1]), ("sleep", [2])]
        first, second = (c.number for c in child.sent)
        child.say(m.Answer(second, "two"))
        child.say(m.Answer(999, "nobody's"))
        child.say(m.Answer(first, {"one": 1}))
        assert await asyncio.gather(*calls) == [{"one": 1}, "two"]
        assert not engine._calls

    run(test)


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (("RequestError", "no such adapter", "load it"), RequestError, "no such adapter; load it"),
        (("DovetailError", "no memory", ""), DovetailError, "no memory"),
        (("ValueError", "secret", ""), RuntimeError, "the engine failed: ValueError: secret"),
    ],
)
def test_a_call_that_fails_raises_what_was_raised(
    failure: tuple[str, str, str], kind: type[Exception], words: str
) -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        call = asyncio.create_task(engine.wake_up())
        await settled()
        child.say(m.Answer(child.sent[0].number, None, failure))
        with pytest.raises(kind, match=words):
            await call
        assert engine.alive

    run(test)


def test_whoever_waits_learns_of_the_end() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        call, ended = asyncio.create_task(engine.wake_up()), asyncio.create_task(engine.ended())
        await settled()
        child.exit(-9)
        with pytest.raises(EngineDeadError, match="killed by signal 9"):
            await call
        assert "signal 9" in await ended
        sent = len(child.sent)
        for late in (engine.call("wake_up"), anext(engine.generate("a", [1], SamplingParams()))):
            with pytest.raises(EngineDeadError):
                await late
        assert len(child.sent) == sent

    run(test)


def test_a_caller_who_leaves_harms_nobody() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        call = asyncio.create_task(engine.wake_up())
        await settled()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        child.say(m.Answer(child.sent[0].number))
        child.say(m.StepOutputs([], m.EngineStats(running=2, waiting=7)))
        await settled()
        assert engine.alive
        assert (engine.stats.running, engine.stats.waiting) == (2, 7)

    run(test)


def test_what_the_engine_has_loaded_is_what_it_says_whoever_asked_for_it() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        call = asyncio.create_task(engine.sleep(1))
        await settled()
        assert not engine.sleeping
        child.say(m.State({"one": "/one"}, sleeping=True))
        child.say(m.Answer(child.sent[-1].number))
        await call
        assert (engine.sleeping, engine.adapters) == (True, {"one": "/one"})
        child.say(m.State())
        await settled()
        assert (engine.sleeping, engine.adapters) == (False, {})

    run(test)


@pytest.mark.parametrize(
    ("prompt", "options", "param"),
    [
        ([], {}, "prompt"),
        ([1] * 100, {}, "prompt"),
        ([50], {}, "prompt"),
        ([1], {"stop_token_ids": [50]}, "stop_token_ids"),
        ([1], {"allowed_token_ids": [50]}, "allowed_token_ids"),
        ([1], {"logit_bias": {50: 1.0}}, "logit_bias"),
        ([1], {"logprobs": 21}, "logprobs"),
        ([1], {"prompt_logprobs": -1}, "prompt_logprobs"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_before_it_is_sent(
    prompt: list[int], options: dict[str, Any], param: str
) -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        with pytest.raises(RequestError) as refused:
            await anext(engine.generate("a", prompt, SamplingParams(**options)))
        assert refused.value.param == param
        assert not child.sent

    run(test)


def test_tokens_of_a_stream_are_sent_together() -> None:
    async def test(engine: AsyncEngine, child: FakeChild) -> None:
        engine.args = EngineArgs(stream_interval=3)
        deltas = engine.generate("a", [1], SamplingParams(detokenize=False, max_tokens=5))
        first = asyncio.ensure_future(anext(deltas))
        await settled()
        for token in range(5):
            child.say(m.StepOutputs([m.TokenOutput("a#0", [token], "length" if token == 4 else None)], m.EngineStats()))
            await settled()
        assert [delta.token_ids for delta in await first] == [[0]]
        assert [delta.token_ids async for batch in deltas for delta in batch] == [[1, 2, 3], [4]]
        assert not engine._mergers

    run(test)
