"""The engine in its own process: what comes through, and what happens when one side goes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from dovetail import SamplingParams
from dovetail.api import CheckpointError, EngineDeadError, RequestError
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.setup import make_plan

from ..serving import command_of
from ..tiny import write_checkpoint

LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@contextlib.asynccontextmanager
async def running(checkpoint: Path) -> AsyncIterator[AsyncEngine]:
    args = EngineArgs(model=str(checkpoint))
    engine = await AsyncEngine.start(make_plan(args), args)
    try:
        yield engine
    finally:
        await engine.stop()


def child_of(pid: int) -> psutil.Process:
    (child,) = (c for c in psutil.Process(pid).children() if "dovetail.engine.process.engine_process" in command_of(c))
    return child


def test_requests_share_the_engine_and_keep_their_tokens_apart(checkpoint: Path) -> None:
    async def one(engine: AsyncEngine, number: int) -> list[int]:
        params = SamplingParams(temperature=0, max_tokens=10, ignore_eos=True)
        batches = [d async for d in engine.generate(f"r{number}", [number] * 5, params)]
        return [t for batch in batches for delta in batch for t in delta.token_ids]

    async def main() -> None:
        async with running(checkpoint) as engine:
            alone = [await one(engine, n) for n in range(8)]
            assert await asyncio.gather(*(one(engine, n) for n in range(8))) == alone
            assert all(len(tokens) == 10 for tokens in alone)

    asyncio.run(main())


def test_leaving_early_frees_the_slot(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            stream = engine.generate("gone", [1, 2, 3], LONG)
            await anext(stream)
            await stream.aclose()
            assert engine._delta_queues == {}
            # The same name is free again, and the engine still answers.
            deltas = [d async for d in engine.generate("gone", [1], SamplingParams(max_tokens=1))]
            assert deltas[-1][-1].finish_reason is not None

    asyncio.run(main())


def test_the_overview_names_what_runs(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            before = await engine.overview()
            stream = engine.generate("watched", [1, 2, 3], LONG)
            await anext(stream)
            (seen,) = (await engine.overview()).requests
            await stream.aclose()
            after = await engine.overview()
        assert (before.requests, after.requests) == ([], [])
        assert (seen.id, seen.state, seen.prompt_tokens) == ("watched#0", "running", 3)
        assert seen.output_tokens >= 1
        assert seen.seconds > 0
        assert after.stats.output_tokens >= seen.output_tokens

    asyncio.run(main())


def test_the_engine_says_how_long_a_sequence_waited_and_what_its_steps_computed(checkpoint: Path) -> None:
    params = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True)

    async def main() -> None:
        async with running(checkpoint) as engine:
            assert sum((await engine.overview()).steps.counts) == 0  # the engine's own are not counted
            began = time.monotonic()
            deltas = [delta async for batch in engine.generate("timed", [1] * 40, params) for delta in batch]
            seconds = time.monotonic() - began
            after = await engine.overview()
        waited, prefill = deltas[0].timing or (-1, -1)
        assert 0 <= waited < seconds
        assert 0 < prefill < seconds
        assert [delta.timing for delta in deltas[1:]] == [None] * (len(deltas) - 1)
        assert after.steps.total == 40 + 4
        assert after.steps.counts[0] == 4  # of one token; the prompt's has up to 64
        assert after.steps.counts[4] == 1
        assert after.cache.keys() >= {"block_size", "cache_dtype", "num_gpu_blocks", "enable_prefix_caching"}
        assert int(after.cache["num_gpu_blocks"]) > 1

    asyncio.run(main())


def test_a_prompt_that_does_not_fit_is_refused_before_it_is_sent(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            with pytest.raises(RequestError, match="context holds 512"):
                await anext(engine.generate("r", [1] * 600, LONG))

    asyncio.run(main())


@pytest.mark.alone
def test_when_the_engine_is_killed_everybody_is_told_within_two_seconds(checkpoint: Path) -> None:
    async def main() -> None:
        async with running(checkpoint) as engine:
            streams = [engine.generate(f"r{i}", [i + 1], LONG) for i in range(4)]
            for stream in streams:
                await anext(stream)
            child_of(os.getpid()).send_signal(signal.SIGKILL)
            started = time.monotonic()
            for stream in streams:
                with pytest.raises(EngineDeadError, match="signal 9"):
                    async for _ in stream:
                        pass
            assert time.monotonic() - started < 2
            assert not engine.alive
            with pytest.raises(EngineDeadError):
                await anext(engine.generate("late", [1], LONG))

    asyncio.run(main())


def test_a_checkpoint_that_does_not_fit_is_the_callers_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": 48', '"hidden_size": 60'))

    async def main() -> None:
        with pytest.raises(CheckpointError, match=r"input_layernorm\.weight is \[48\], wanted \[60\]"):
            async with running(folder):
                pass

    asyncio.run(main())


def test_when_its_parent_is_killed_the_engine_goes_too(checkpoint: Path) -> None:
    code = f"""
import asyncio
from dovetail.engine.args import EngineArgs
from dovetail.engine.process.async_engine import AsyncEngine
from dovetail.engine.setup import make_plan
async def main():
    args = EngineArgs(model={str(checkpoint)!r})
    engine = await AsyncEngine.start(make_plan(args), args)
    print("ready", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        child = child_of(parent.pid)
        parent.kill()
    child.wait(timeout=5)
    assert not child.is_running()
