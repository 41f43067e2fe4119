"""The processes that run templates, as routes use them: limits, replacement, and what others notice."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import psutil
import pytest

from dovetail.api import RequestError
from dovetail.engine.templates.calls import RenderCall
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.rendered_prompt import RenderedPrompt
from dovetail.server.rendering import pool as pools
from dovetail.server.rendering.pool import TemplatePool
from dovetail.server.settings import ServerSettings

MESSAGES = [{"role": "user", "content": "Why?"}]
OWN = "{{ messages[0].content }}"
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
HOLDS_THE_LOCK = "{{ (9 + messages | length) ** (10 ** 8) }}"
DOUBLES = "{% set n = namespace(s='a' * 1024) %}{% for i in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}"
LOOP_SECONDS = 0.1


class Owner:
    """The part of a tokenizer that the pool reads."""

    chat_template = OWN
    content_control_tokens = ("<|end|>",)


def run(work: Callable[[TemplatePool], Coroutine[Any, Any, Any]], seconds: float = 30, most: int = 4) -> Any:
    """Run some work with a pool, after which no process is left."""

    async def with_pool() -> Any:
        with TemplatePool(ServerSettings(chat_template_timeout=seconds), most) as pool:
            pool.use(Owner())  # type: ignore[arg-type]
            return await work(pool)

    before = set(children())
    try:
        return asyncio.run(with_pool())
    finally:
        assert set(children()) <= before


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "engine.templates.process" in command_of(child)]


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # which it is for those that have ended, until they are waited for
        return ""


def call(template: str = OWN, **options: Any) -> RenderCall:
    return RenderCall(template, MESSAGES, **options)


async def fails(work: Awaitable[Any], said: str) -> RequestError:
    with pytest.raises(RequestError, match=said) as error:
        await work
    assert str(error.value).isprintable()
    return error.value


@pytest.fixture
def quick_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "GROW_SECONDS", 0.01)


def test_it_renders_and_finds_facts_with_one_process() -> None:
    async def work(pool: TemplatePool) -> None:
        assert len(children()) == 1, "it starts before it is needed"
        assert await pool.render(call()) == RenderedPrompt("Why?")
        assert await pool.render(call("{{ x }}", variables={"x": 1})) == RenderedPrompt("1")
        facts = await pool.find_facts("{{ tools }}", ("tool", "no"))
        assert facts == TemplateFacts(True, "anywhere", frozenset({"tool"}))
        answers = await asyncio.gather(*(pool.render(call(variables={"n": n})) for n in range(200)))
        assert {answer.text for answer in answers} == {"Why?"}

    run(work)


def test_control_tokens_of_messages_are_found() -> None:
    async def work(pool: TemplatePool) -> None:
        for _ in range(2):
            found = await pool.render(RenderCall(OWN + "<|end|>", [{"role": "user", "content": "a<|end|>b"}]))
            assert found == RenderedPrompt("a<|end|>b<|end|>", (1,))

    run(work)


def test_large_conversations_pass() -> None:
    async def work(pool: TemplatePool) -> None:
        text = "é" * 4_000_000
        found = await pool.render(RenderCall(OWN, [{"role": "user", "content": text}]))
        assert found.text == text
        await fails(
            pool.render(RenderCall("{{ messages[0].content * 9 }}", [{"role": "user", "content": text}])),
            "makes a text of more than 33554432 bytes",
        )

    run(work)


@pytest.mark.parametrize("template", [ENDLESS, HOLDS_THE_LOCK, DOUBLES])
def test_what_never_ends_is_stopped_and_others_are_served(template: str, quick_growth: None) -> None:
    async def work(pool: TemplatePool) -> None:
        assert (await pool.render(call())).text == "Why?"
        hanging = [asyncio.create_task(pool.render(call(template))) for _ in range(6)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        assert (await pool.render(call())).text == "Why?"
        assert not all(task.done() for task in hanging), "one had to end first"
        assert time.monotonic() - started < 1.5 + pool.limits.seconds
        for task in hanging:
            await fails(task, "takes more than 2 s|needs more than 1024 MiB")
        assert (await pool.render(call())).text == "Why?"

    run(work, seconds=2)


def test_the_error_names_the_limit_and_the_flag() -> None:
    async def work(pool: TemplatePool) -> None:
        error = await fails(pool.render(call(ENDLESS)), "more than 0.5 s .*--chat-template-timeout")
        assert error.param == "chat_template", "it is the request's own"
        error = await fails(pool.find_facts(ENDLESS), "more than 0.5 s")
        assert (await pool.find_facts("{{ tools }}")).shows_tools

    run(work, seconds=0.5)


def test_own_templates_are_not_held_up_by_templates_of_requests(quick_growth: None) -> None:
    async def work(pool: TemplatePool) -> None:
        hanging = [asyncio.create_task(pool.render(call(ENDLESS))) for _ in range(5)]
        await asyncio.sleep(0.3)
        assert (await asyncio.wait_for(pool.render(call()), 20)).text == "Why?"
        assert not any(task.done() for task in hanging)
        assert len(children()) == 2
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)

    run(work, most=2)


@pytest.mark.alone
def test_the_loop_never_waits(slowness: Callable[[], float]) -> None:
    async def work(pool: TemplatePool) -> float:
        longest = 0.0

        async def beat() -> None:
            nonlocal longest
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.005)
                longest = max(longest, time.perf_counter() - before)

        await pool.render(call())
        beating = asyncio.create_task(beat())
        big = [{"role": "user", "content": "x" * 2**22}]
        hostile = [pool.render(call(template)) for template in (ENDLESS, HOLDS_THE_LOCK, DOUBLES)]
        await asyncio.gather(*hostile, pool.render(RenderCall(OWN, big)), return_exceptions=True)
        beating.cancel()
        return longest

    assert run(work, seconds=1) < LOOP_SECONDS * slowness()


def test_a_process_that_was_killed_is_replaced() -> None:
    async def work(pool: TemplatePool) -> None:
        await pool.render(call())
        (child,) = children()
        child.kill()
        child.wait(10)
        assert (await pool.render(call())).text == "Why?"
        hanging = asyncio.create_task(pool.render(call(ENDLESS)))
        await asyncio.sleep(0.2)
        (child,) = children()
        os.kill(child.pid, signal.SIGSEGV)
        await fails(hanging, "died of it .SIGSEGV.")
        assert (await pool.render(call())).text == "Why?"

    run(work)


def test_after_memory_was_full_there_is_a_new_process() -> None:
    async def work(pool: TemplatePool) -> None:
        await pool.render(call())
        (before,) = children()
        await fails(pool.render(call("{{ 'a' * 10**10 }}")), "needs more than 1024 MiB")
        assert (await pool.render(call())).text == "Why?"
        assert before not in children()

    run(work)


def test_who_leaves_frees_the_process() -> None:
    async def work(pool: TemplatePool) -> None:
        await pool.render(call())
        (first,) = children()
        quick = asyncio.create_task(pool.render(call()))
        await asyncio.sleep(0)
        quick.cancel()
        await asyncio.gather(quick, return_exceptions=True)
        assert (await pool.render(call())).text == "Why?"
        assert children() == [first], "an answer that comes soon costs no process"
        hanging = asyncio.create_task(pool.render(call(HOLDS_THE_LOCK)))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(pool.render(call()))
        hanging.cancel()
        waiting.cancel()
        await asyncio.gather(hanging, waiting, return_exceptions=True)
        assert (await asyncio.wait_for(pool.render(call()), 20)).text == "Why?"
        assert first not in children()

    run(work, seconds=600, most=1)


def test_aborting_ends_all_that_runs_and_waits() -> None:
    async def work(pool: TemplatePool) -> None:
        await pool.render(call())
        asked = [asyncio.create_task(pool.render(call(ENDLESS))) for _ in range(3)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        pool.abort(RequestError("stopping"))
        for task in asked:
            await fails(task, "stopping")
        await fails(pool.render(call()), "stopping")
        await fails(pool.find_facts("{{ 1 }}"), "stopping")
        assert time.monotonic() - started < 10

    run(work, seconds=600, most=2)


def test_processes_that_are_not_needed_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "GROW_SECONDS", 0.01)
    monkeypatch.setattr(pools, "IDLE_SECONDS", 0.05)

    async def work(pool: TemplatePool) -> None:
        hanging = [asyncio.create_task(pool.render(call("{% for i in range(99999) %}{% endfor %}"))) for _ in range(12)]
        await asyncio.sleep(0.2)
        assert len(children()) > 1
        await asyncio.gather(*hanging)
        end = time.monotonic() + 20
        while len(children()) > 1:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert (await pool.render(call())).text == "Why?"

    run(work)


def test_the_process_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")

    async def work(pool: TemplatePool) -> None:
        await pool.render(call())
        (child,) = children()
        assert "PATH" in child.environ()
        assert "secret" not in str(child.environ())

    run(work)


def test_what_cannot_be_sent_is_an_error() -> None:
    async def work(pool: TemplatePool) -> None:
        await fails(pool.render(call(variables={"x": object()})), "cannot be given")
        deep: list[Any] = []
        for _ in range(5000):
            deep = [deep]
        await fails(pool.render(call(variables={"x": deep})), "cannot be given")
        assert (await pool.render(call())).text == "Why?"

    run(work)


def test_facts_are_remembered_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "FACTS_BYTES", 4000)

    async def work(pool: TemplatePool) -> None:
        for number in range(30):
            await pool.find_facts(f"{number:3}" + "a" * 97)
        assert len(pool._facts._facts) == 10
        await pool.find_facts(" 29" + "a" * 97)
        assert len(pool._facts._facts) == 10

    run(work)
