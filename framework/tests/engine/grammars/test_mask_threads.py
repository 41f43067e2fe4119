"""A mask that takes for ever ends its request; the others and the engine go on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from dovetail.api.errors import RequestError
from dovetail.api.grammar import Grammar, GrammarSource, GrammarState
from dovetail.engine.grammars import mask_threads as module
from dovetail.engine.grammars.compiler import GrammarManager, RequestGrammar
from dovetail.engine.grammars.mask_threads import MaskThreads
from dovetail.engine.request.params import StructuredOutputs

LIMIT = 0.2
WAIT = 30.0
HANGS = "hangs"
FIRST = "hangs at once"


class Backend:
    """Its grammars allow everything. Some never finish a mask until ``released``."""

    def __init__(self) -> None:
        self.released = threading.Event()

    def compile(self, source: GrammarSource) -> Grammar:
        return Anything(self, json.loads(source.text)[0])


class Anything(Grammar):
    def __init__(self, backend: Backend, name: str) -> None:
        self.backend, self.name = backend, name

    def start(self) -> GrammarState:
        return State(self)


class State(GrammarState):
    def __init__(self, grammar: Anything) -> None:
        self.grammar, self.count = grammar, 0

    def accept(self, token: int) -> bool:
        self.count += 1
        return True

    def rollback(self, count: int) -> None:
        self.count -= count

    def fill_mask(self, mask: np.ndarray) -> None:
        if self.grammar.name == FIRST or (self.grammar.name.startswith(HANGS) and self.count):
            assert self.grammar.backend.released.wait(WAIT)


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.released.set()


@pytest.fixture
def manager(backend: Backend) -> Iterator[GrammarManager]:
    made = GrammarManager(lambda: backend, 64, [0], mask_seconds=LIMIT)  # type: ignore[arg-type, return-value]
    yield made
    backend.released.set()
    made.shutdown()


def begin(manager: GrammarManager, name: str) -> RequestGrammar:
    run = manager.compile(StructuredOutputs(choice=[name]))
    assert run.wait(WAIT)
    return run


def message(run: RequestGrammar) -> str:
    assert run.failure is not None
    return str(run.failure)


def test_a_mask_that_does_not_end_ends_its_request_alone(manager: GrammarManager) -> None:
    hanging, other = begin(manager, HANGS), begin(manager, "fine")
    assert hanging.accept([1])
    started = time.monotonic()
    assert all(mask.all() for mask in hanging.masks([]))  # everything is allowed, and dropped
    assert time.monotonic() - started < WAIT / 2
    assert message(hanging) == f"the grammar takes more than {LIMIT} s for one token; make it simpler"
    assert not hanging.accept([1])
    for _ in range(3):
        assert other.accept([1])
        assert len(other.masks([])) == 1
    assert other.failure is None


def test_those_who_wait_behind_such_masks_get_theirs(manager: GrammarManager) -> None:
    """Both threads hang, and the sequence that is asked first has not begun."""
    hanging = [begin(manager, f"{HANGS} {number}") for number in range(2)]
    other = begin(manager, "fine")
    for run in (*hanging, other):
        assert run.accept([1])
    assert len(other.masks([])) == 1
    assert other.failure is None
    for run in hanging:
        run.masks([])
        assert "for one token" in message(run)


def test_a_first_mask_that_does_not_end(manager: GrammarManager) -> None:
    assert "for one token" in message(begin(manager, FIRST))
    assert begin(manager, "fine").failure is None


def test_with_too_many_of_them_no_grammar_is_taken_until_they_end(manager: GrammarManager, backend: Backend) -> None:
    for number in range(module.MAX_GIVEN_UP):
        run = begin(manager, f"{HANGS} {number}")
        assert run.accept([1])
        run.masks([])
    with pytest.raises(RequestError, match="still being computed; try again later"):
        begin(manager, "fine")
    backend.released.set()
    end = time.monotonic() + WAIT
    while manager.mask_threads.overrun:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert begin(manager, "fine").failure is None


def test_what_is_raised_reaches_who_waits() -> None:
    threads = MaskThreads(1, WAIT)

    def fail(*arguments: Any) -> None:
        raise KeyError(arguments)

    future = threads.submit(fail, 1, 2)
    threads.join(future)
    with pytest.raises(KeyError):
        future.result()
    threads.shutdown()


def test_the_end_does_not_wait_for_what_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_SECONDS", 0.1)
    threads, released = MaskThreads(1, LIMIT), threading.Event()
    future = threads.submit(lambda: released.wait(WAIT))
    with pytest.raises(RequestError):
        threads.join(future)
    started = time.monotonic()
    threads.shutdown()
    assert time.monotonic() - started < WAIT / 2
    released.set()


def test_many_pieces_of_work_are_done_once() -> None:
    threads = MaskThreads(2, WAIT)
    done: list[int] = []
    futures: Sequence[Any] = [threads.submit(done.append, number) for number in range(200)]
    for future in futures:
        threads.join(future)
    assert sorted(done) == list(range(200))
    threads.shutdown()
