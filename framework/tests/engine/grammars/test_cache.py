"""The cache of compiled grammars is bounded by bytes, and so are the grammars in use."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from dovetail.api import Grammar, GrammarSource, GrammarState, RequestError
from dovetail.engine.grammars import cache
from dovetail.engine.grammars.compiler import GrammarManager, RequestGrammar
from dovetail.engine.request.params import StructuredOutputs

WAIT = 30.0
MB = 1 << 20


class PanicException(BaseException):
    pass


class Sized(Grammar):
    """``"3 x"`` takes 3 MB; ``"? x"`` does not tell."""

    def __init__(self, text: str) -> None:
        self.size = None if text[0] == "?" else int(text.split()[0]) * MB
        self.states: list[Anything] = []

    @property
    def num_bytes(self) -> int | None:
        return self.size

    def start(self) -> GrammarState:
        self.states.append(Anything())
        return self.states[-1]


class Anything(GrammarState):
    panics = False

    def accept(self, token: int) -> bool:
        if self.panics:
            raise PanicException("poisoned")
        return True

    def rollback(self, count: int) -> None:
        pass

    def fill_mask(self, mask: np.ndarray) -> None:
        mask[:] = -1


class Backend:
    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.hold = threading.Event()
        self.hold.set()

    def compile(self, source: GrammarSource) -> Grammar:
        assert self.hold.wait(WAIT)
        if source.text == "panic":
            raise PanicException("not a char boundary")
        self.compiled.append(source.text)
        return Sized(source.text)


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def manager(backend: Backend) -> Iterator[GrammarManager]:
    made = GrammarManager(lambda: backend, 64, [0], max_bytes=10 * MB)  # type: ignore[arg-type, return-value]
    yield made
    backend.hold.set()
    made.shutdown()


def compiled(manager: GrammarManager, text: str) -> RequestGrammar:
    grammar = manager.compile(StructuredOutputs(regex=text))
    assert grammar.wait(WAIT)
    return grammar


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline
        gc.collect()
        time.sleep(0.005)


def test_unused_grammars_are_kept_up_to_the_bytes_and_the_least_recently_used_dropped(
    manager: GrammarManager, backend: Backend
) -> None:
    for number in range(4):
        compiled(manager, f"3 {number}")
    until(lambda: manager.cache.num_bytes < 10 * MB)
    assert manager.cache.num_bytes > 9 * MB
    compiled(manager, "3 1")
    assert len(backend.compiled) == 4
    compiled(manager, "3 0")
    assert len(backend.compiled) == 5


def test_what_grows_later_counts_when_its_sequence_ends(manager: GrammarManager) -> None:
    small = compiled(manager, "1 small")
    large = compiled(manager, "1 large")
    large._compiled.result().grammar.size = 20 * MB  # type: ignore[attr-defined]
    assert manager.cache.num_bytes > 20 * MB
    del large
    until(lambda: manager.cache.num_bytes < 3 * MB)
    assert small.accept([1])


def test_while_those_in_use_take_too_much_no_other_is_compiled(manager: GrammarManager, backend: Backend) -> None:
    held = [compiled(manager, "8 a"), compiled(manager, "8 b")]
    waiting = manager.compile(StructuredOutputs(regex="8 c"))
    assert not waiting.wait(0.2)
    assert backend.compiled == ["8 a", "8 b"]
    same = manager.compile(StructuredOutputs(regex="8 a"))
    assert same.ready
    del same
    held.pop()
    assert waiting.wait(WAIT)
    assert waiting.failure is None
    until(lambda: manager.cache.num_bytes < 17 * MB)
    assert held[0].accept([1])


def test_what_nobody_waits_for_any_longer_is_not_compiled(manager: GrammarManager, backend: Backend) -> None:
    backend.hold.clear()
    first = [manager.compile(StructuredOutputs(regex=f"1 {number}")) for number in range(2)]
    left = [manager.compile(StructuredOutputs(regex=f"2 {number}")) for number in range(50)]
    del left
    gc.collect()
    backend.hold.set()
    compiled(manager, "1 last")
    assert all(grammar.wait(WAIT) for grammar in first)
    assert sorted(backend.compiled) == ["1 0", "1 1", "1 last"]


def test_a_backend_that_cannot_tell_counts_for_something(manager: GrammarManager) -> None:
    compiled(manager, "? x")
    assert cache.MIN_BYTES <= manager.cache.num_bytes < 100 * MB


def test_sequences_that_wait_have_no_state_of_their_own(manager: GrammarManager) -> None:
    grammars = [compiled(manager, "1 x") for _ in range(100)]
    for grammar in grammars:
        grammar.prefetch([])
        assert len(grammar.masks([])) == 1
    made = grammars[0]._compiled.result().grammar
    assert isinstance(made, Sized)
    assert len(made.states) == 1
    assert grammars[0].accept([1])
    assert len(made.states) == 2


def test_panics_are_errors_of_the_request_and_spoil_nothing_for_others(
    manager: GrammarManager, caplog: pytest.LogCaptureFixture
) -> None:
    failed = compiled(manager, "panic")
    assert isinstance(failed.failure, RequestError)
    assert "PanicException: not a char boundary" in caplog.text  # for the operator, not for clients
    assert "boundary" not in str(failed.failure)
    spoilt = compiled(manager, "1 x")
    assert spoilt.accept([1])
    assert isinstance(spoilt._state, Anything)
    spoilt._state.panics = True
    assert not spoilt.accept([1])
    assert isinstance(spoilt.failure, RequestError)
    assert "PanicException: poisoned" in caplog.text
    fresh = compiled(manager, "1 x")
    assert fresh._compiled is not spoilt._compiled
    assert fresh.accept([1])
