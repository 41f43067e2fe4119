"""``AsyncLLM``: an engine for the coroutines of a script."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from dovetail import (
    AsyncEngineArgs,
    AsyncLLM,
    GuidedDecodingParams,
    LoRARequest,
    PoolingParams,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    TokensPrompt,
)
from dovetail.api import CheckpointError, DovetailError, EngineDeadError, RequestError

from ..serving import command_of
from ..tiny import write_checkpoint

GREEDY = SamplingParams(temperature=0, max_tokens=8, ignore_eos=True)
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_eos=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[AsyncLLM]:
    made = AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(checkpoint)))  # before there is any event loop
    yield made
    made.shutdown()


def children() -> list[psutil.Process]:
    return [c for c in psutil.Process().children() if "engine_process" in command_of(c)]


async def collect(engine: AsyncLLM, prompt: Any, params: SamplingParams | None, **options: Any) -> list[RequestOutput]:
    return [output async for output in engine.generate(prompt, params, **options)]


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def with_kind(kind: RequestOutputKind, **changes: Any) -> SamplingParams:
    return SamplingParams(temperature=0, max_tokens=8, ignore_eos=True, output_kind=kind, **changes)


def test_outputs_grow_come_in_pieces_or_come_once(engine: AsyncLLM) -> None:
    grown = asyncio.run(collect(engine, "Hello", with_kind(RequestOutputKind.CUMULATIVE, logprobs=1)))
    pieces = asyncio.run(collect(engine, "Hello", with_kind(RequestOutputKind.DELTA, logprobs=1)))
    (whole,) = asyncio.run(collect(engine, "Hello", with_kind(RequestOutputKind.FINAL_ONLY, logprobs=1)))
    assert len(grown) > 1
    assert [output.finished for output in grown] == [False] * (len(grown) - 1) + [True]
    assert all(after.startswith(before) for before, after in zip(texts(grown), texts(grown)[1:], strict=False))
    (end,) = grown[-1].outputs
    assert "".join(texts(pieces)) == end.text == whole.outputs[0].text
    assert [t for output in pieces for t in output.outputs[0].token_ids] == end.token_ids == whole.outputs[0].token_ids
    assert [p for output in pieces for p in output.outputs[0].logprobs or ()] == end.logprobs
    assert end.finish_reason == "length"
    assert (whole.prompt, whole.prompt_token_ids) == ("Hello", engine.get_tokenizer().encode("Hello"))


def test_metrics_have_the_field_names_of_vllm(engine: AsyncLLM) -> None:
    before = time.time()
    metrics = asyncio.run(collect(engine, "Hello", GREEDY))[-1].metrics
    assert metrics is not None
    assert metrics.first_scheduled_time is not None
    assert before <= metrics.arrival_time <= metrics.first_scheduled_time <= (metrics.first_token_time or 0)
    assert (metrics.first_token_time or 0) < (metrics.last_token_time or 0) <= (metrics.finished_time or 0)
    assert metrics.time_in_queue == pytest.approx(metrics.first_scheduled_time - metrics.arrival_time, abs=1e-6)
    assert metrics.num_generation_tokens == 8


def test_many_at_once_give_what_each_gives_alone(engine: AsyncLLM) -> None:
    prompts: list[Any] = ["Hello", {"prompt": "Bye"}, TokensPrompt(prompt_token_ids=[5, 6, 7]), [8, 9]]

    async def together() -> list[list[RequestOutput]]:
        return await asyncio.gather(*(collect(engine, p, GREEDY, request_id=f"r{i}") for i, p in enumerate(prompts)))

    alone = [asyncio.run(collect(engine, p, GREEDY))[-1].outputs[0].token_ids for p in prompts]
    assert [outputs[-1].outputs[0].token_ids for outputs in asyncio.run(together())] == alone


def test_several_completions(engine: AsyncLLM) -> None:
    pieces = asyncio.run(collect(engine, "Hello", SamplingParams(n=3, seed=1, max_tokens=4, output_kind=1)))  # type: ignore[arg-type]
    assert {completion.index for output in pieces for completion in output.outputs} == {0, 1, 2}
    ends = [c.index for output in pieces for c in output.outputs if c.finish_reason]
    assert sorted(ends) == [0, 1, 2]
    assert pieces[-1].finished
    assert not any(output.finished for output in pieces[:-1])


def test_an_abort_ends_the_stream_with_its_reason(engine: AsyncLLM) -> None:
    async def main() -> None:
        stream = engine.generate("Hello", LONG, request_id="x")
        await anext(stream)
        with pytest.raises(RequestError, match="'x' is running"):
            await collect(engine, "Hello", GREEDY, request_id="x")
        await engine.abort("x")
        rest = [output async for output in stream]
        assert rest[-1].finished
        assert rest[-1].outputs[0].finish_reason == "abort"
        assert len(rest[-1].outputs[0].token_ids) < 400
        await engine.abort(["x", "never heard of"])
        assert await collect(engine, "Hello", GREEDY, request_id="x")  # the name is free again

    asyncio.run(main())


def test_leaving_early_frees_the_name_and_the_slot(engine: AsyncLLM) -> None:
    async def main() -> None:
        stream = engine.generate("Hello", LONG, request_id="left")
        await anext(stream)
        await stream.aclose()
        task = asyncio.create_task(collect(engine, "Hello", LONG, request_id="cancelled"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine._running == {}
        for _ in range(100):
            if not engine._engine._delta_queues:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the engine goes on with what nobody waits for")

    asyncio.run(main())


def test_the_tokenizer_and_the_configuration_may_be_awaited_or_not(engine: AsyncLLM) -> None:
    async def main() -> None:
        assert await engine.get_tokenizer() is engine.get_tokenizer()  # type: ignore[func-returns-value]
        config = await engine.get_model_config()
        assert config is engine.model_config
        assert (config.max_model_len, config.get_vocab_size(), config.hf_config.model_type) == (512, 256, "llama")

    asyncio.run(main())


@pytest.mark.parametrize(
    ("prompt", "params", "options", "message"),
    [
        ([1] * 600, GREEDY, {}, "context holds 512"),
        (["a", "b"], GREEDY, {}, "2 prompts were given"),
        ("a", PoolingParams(), {}, "for vectors, call encode"),
        ("a", GREEDY, {"priority": 3}, "scheduling policy is fcfs"),
        ("a", GREEDY, {"lora_request": LoRARequest("a", 1, "path")}, "adapters are not enabled"),
        ("a", SamplingParams(structured_outputs=GuidedDecodingParams(regex="(")), {}, "regex"),
    ],
)
def test_mistakes_are_errors_of_ours(
    engine: AsyncLLM, prompt: Any, params: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        asyncio.run(collect(engine, prompt, params, **options))
    assert engine._running == {}


def test_vectors_of_a_model_that_has_none_are_refused(engine: AsyncLLM) -> None:
    async def main() -> None:
        with pytest.raises(RequestError, match="--convert embed"):
            await anext(engine.encode("Hello"))

    asyncio.run(main())


def test_vectors(checkpoint: Path) -> None:
    async def main() -> None:
        async with AsyncLLM(AsyncEngineArgs(model=str(checkpoint), convert="embed")) as engine:
            (output,) = [o async for o in engine.encode("Hello", PoolingParams(truncate_prompt_tokens=3), "e")]
            assert output.outputs.data.shape == (48,)
            assert output.prompt_token_ids == engine.get_tokenizer().encode("Hello")[:3]
            assert output.finished

    asyncio.run(main())


def test_token_ids_alone(checkpoint: Path) -> None:
    async def main() -> None:
        async with AsyncLLM(AsyncEngineArgs(model=str(checkpoint), skip_tokenizer_init=True)) as engine:
            outputs = await collect(engine, [1, 2, 3], GREEDY)
            assert (outputs[-1].outputs[0].text, len(outputs[-1].outputs[0].token_ids)) == ("", 8)
            with pytest.raises(RequestError, match="skip_tokenizer_init"):
                await collect(engine, "Hello", GREEDY)
            with pytest.raises(RequestError, match="skip_tokenizer_init"):
                engine.get_tokenizer()
            assert await engine.reset_prefix_cache()
            await engine.sleep()
            assert await engine.is_sleeping()
            await engine.wake_up()

    asyncio.run(main())


def test_a_dead_engine_says_so(checkpoint: Path) -> None:
    async def main() -> None:
        before = set(children())
        engine = AsyncLLM(AsyncEngineArgs(model=str(checkpoint)))
        (child,) = set(children()) - before
        await engine.check_health()
        stream = engine.generate("Hello", LONG)
        await anext(stream)
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(EngineDeadError, match="signal 9"):
            async for _ in stream:
                pass
        with pytest.raises(EngineDeadError):
            await collect(engine, "Hello", GREEDY)
        with pytest.raises(EngineDeadError):
            await engine.check_health()
        assert (engine.is_running, engine.errored, "signal 9" in str(engine.dead_error)) == (False, True, True)
        engine.shutdown()

    asyncio.run(main())


def test_shutdown_ends_the_process_and_what_runs(checkpoint: Path) -> None:
    async def main() -> None:
        before = set(children())
        engine = AsyncLLM(AsyncEngineArgs(model=str(checkpoint)))
        (child,) = set(children()) - before
        running = asyncio.create_task(collect(engine, "Hello", LONG))
        await asyncio.sleep(0.05)
        engine.shutdown()
        engine.shutdown()
        assert not child.is_running()
        with pytest.raises(EngineDeadError, match="stopped"):
            await running
        assert (engine.is_running, engine.errored) == (False, False)
        with pytest.raises(EngineDeadError, match="stopped"):
            await engine.reset_prefix_cache()

    asyncio.run(main())


def test_an_engine_that_nobody_holds_leaves(checkpoint: Path) -> None:
    before = set(children())
    engine = AsyncLLM(AsyncEngineArgs(model=str(checkpoint)))
    (child,) = set(children()) - before
    del engine
    gc.collect()
    assert not child.is_running()


def test_what_cannot_start_raises_what_is_wrong(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "broken")
    (folder / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError):
        AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(folder)))
    with pytest.raises(DovetailError, match="start_engine_loop"):
        AsyncLLM.from_engine_args(AsyncEngineArgs(model=str(folder)), start_engine_loop=False)
