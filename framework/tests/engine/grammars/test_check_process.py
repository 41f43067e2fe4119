"""Formats are checked in processes of their own: whatever happens there is an error of the request."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from dovetail.api import GrammarSource, PluginError, RequestError
from dovetail.engine.grammars import check_process
from dovetail.engine.grammars.check_process import CheckProcess, GrammarChecker
from dovetail.engine.request.params import StructuredOutputs

WAIT = 60.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in an event loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH")))))


@pytest.fixture
def process() -> Iterator[CheckProcess]:
    made = CheckProcess("checked_formats:validate")
    yield made
    made.close()


@pytest.fixture
def checker() -> Iterator[GrammarChecker]:
    made = GrammarChecker("checked_formats:validate")
    yield made
    made.close()


def source(text: str) -> GrammarSource:
    return GrammarSource("regex", text)


def regex(text: str) -> StructuredOutputs:
    return StructuredOutputs(regex=text)


def test_one_process_checks_many_formats(process: CheckProcess) -> None:
    assert process.check(source("a"), WAIT) == {"notices": [], "last": False}
    assert process.check(source("notice é\n"), WAIT)["notices"] == ["notice é\n"]
    first, second = (process.check(source("pid"), WAIT)["notices"] for _ in range(2))
    assert first == second != [str(os.getpid())]


def test_errors_are_those_of_the_backend(process: CheckProcess) -> None:
    answer = process.check(source("wrong"), WAIT)
    assert (answer["problem"], answer["hint"]) == ("it is wrong", "mend it")
    panic = process.check(source("panic"), WAIT)
    assert panic["problem"] == "the grammar backend failed on this form"  # what it says is for the log
    assert panic["cause"] == "PanicException: not a char boundary"
    assert process.check(source("a"), WAIT)["notices"] == []


def test_a_check_that_fills_memory_is_refused(process: CheckProcess) -> None:
    assert process.check(source("fill"), WAIT)["problem"] == "checking the format takes more than 448 MiB"
    assert process.check(source("a"), WAIT)["notices"] == []


def test_a_check_that_ends_its_process_is_refused(process: CheckProcess) -> None:
    with pytest.raises(RequestError, match=r"or its checker failed \(exit code -6\)") as caught:
        process.check(source("die"), WAIT)
    assert caught.value.param == "structured_outputs"
    assert process.check(source("a"), WAIT)["notices"] == []


def test_a_check_that_only_waits_is_given_up(process: CheckProcess) -> None:
    with pytest.raises(TimeoutError):
        process.check(source("sleep"), 0.1)
    assert process.check(source("a"), WAIT)["notices"] == []


def test_a_backend_that_cannot_be_imported_is_named() -> None:
    async def check() -> None:
        checker = GrammarChecker("no_such_module:validate")
        try:
            await checker.check(regex("a"))
        finally:
            checker.close()

    with pytest.raises(PluginError, match="cannot import no_such_module:validate"):
        asyncio.run(check())


@in_loop
async def test_slow_checks_do_not_delay_the_others(checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch) -> None:
    await checker.check(regex("a"))
    monkeypatch.setattr(check_process, "SLOW_S", 1000.0)
    slow = [asyncio.create_task(checker.check(regex(text))) for text in ("sleep", "sleep", "sleep", "sleep")]
    assert await asyncio.wait_for(checker.check(regex("notice")), WAIT) == ["notice"]
    assert not any(task.done() for task in slow)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


@in_loop
async def test_what_was_cancelled_while_it_waited_is_not_checked(checker: GrammarChecker) -> None:
    tasks = [asyncio.create_task(checker.check(regex(f"notice {number}"))) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await checker.check(regex("a"))
    assert len(checker._answers) <= 4


@in_loop
async def test_answers_are_remembered(checker: GrammarChecker) -> None:
    with pytest.raises(RequestError, match="it is wrong; mend it"):
        await checker.check(regex("wrong"))
    assert await checker.check(regex("pid")) == await checker.check(regex("pid"))


@pytest.mark.alone
@in_loop
async def test_time_of_the_processor_is_limited_and_the_event_loop_goes_on_meanwhile(
    checker: GrammarChecker, slowness: Callable[[], float]
) -> None:
    await checker.check(regex("a"))
    slow = asyncio.create_task(checker.check(regex("spin")))
    longest = 0.0
    while not slow.done():
        started = time.monotonic()
        await asyncio.sleep(0.005)
        longest = max(longest, time.monotonic() - started)
    with pytest.raises(RequestError, match="checking the format takes more than 3 s"):
        await slow
    assert longest < 0.1 * slowness()
