"""Grammar runs, against a backend whose grammars are lists of token sequences."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from dovetail.api import Grammar, GrammarSource, GrammarState, PluginError, RequestError
from dovetail.engine.grammars.checks import build_grammar_source
from dovetail.engine.grammars.compiler import GrammarManager, RequestGrammar
from dovetail.engine.request.params import StructuredOutputs

VOCAB_SIZE = 70
END = 64
WAIT = 30.0


def mask_of(tokens: Sequence[int]) -> list[int]:
    """The words of a mask, bit by bit."""
    words = [0, 0, 0]
    for token in tokens:
        words[token // 32] |= 1 << token % 32
    return words


def words(mask: np.ndarray) -> list[int]:
    return mask.view(np.uint32).tolist()


class Sequences(Grammar):
    """Outputs written as digits, ``["12", "13"]``: token 1, then 2 or 3, then the end."""

    def __init__(self, outputs: list[list[int]]) -> None:
        self.outputs = outputs
        self.filled: list[tuple[int, ...]] = []
        self.threads: set[str] = set()

    def start(self) -> GrammarState:
        return Place(self)

    def allowed(self, tokens: Sequence[int]) -> set[int]:
        count = len(tokens)
        if END in tokens:
            return {END}
        fitting = [output for output in self.outputs if output[:count] == [*tokens]]
        return {output[count] if len(output) > count else END for output in fitting}


class Place(GrammarState):
    def __init__(self, grammar: Sequences) -> None:
        self.grammar = grammar
        self.tokens: list[int] = []
        self.busy = threading.Lock()

    def accept(self, token: int) -> bool:
        assert self.busy.acquire(blocking=False), "two threads use one state"
        fits = token in self.grammar.allowed(self.tokens)
        if fits:
            self.tokens.append(token)
        self.busy.release()
        return fits

    def rollback(self, count: int) -> None:
        assert count <= len(self.tokens)
        del self.tokens[len(self.tokens) - count :]

    def fill_mask(self, mask: np.ndarray) -> None:
        assert self.busy.acquire(blocking=False), "two threads use one state"
        if 9 in self.tokens:
            self.busy.release()
            raise RequestError("nine is too much", param="structured_outputs")
        self.grammar.filled.append(tuple(self.tokens))
        self.grammar.threads.add(threading.current_thread().name)
        mask[:] = np.array(mask_of([*self.grammar.allowed(self.tokens)]), np.uint32).view(np.int32)
        self.busy.release()


class Backend:
    """Counts what it compiles; ``hold`` keeps it from coming to an end."""

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.loaded = 0
        self.hold = threading.Event()
        self.hold.set()

    def load(self) -> Backend:
        self.loaded += 1
        return self

    def compile(self, source: GrammarSource) -> Grammar:
        assert self.hold.wait(WAIT)
        self.compiled.append(source.text)
        outputs = json.loads(source.text)
        if not outputs[0]:
            raise RequestError("there is nothing in it", param="structured_outputs")
        return Sequences([[int(digit) for digit in output] for output in outputs])


@pytest.fixture
def backend() -> Iterator[Backend]:
    made = Backend()
    yield made
    made.hold.set()


@pytest.fixture
def manager(backend: Backend) -> Iterator[GrammarManager]:
    made = GrammarManager(backend.load, VOCAB_SIZE, [END])  # type: ignore[arg-type]
    yield made
    backend.hold.set()
    made.shutdown()


def choice(*texts: str) -> StructuredOutputs:
    return StructuredOutputs(choice=list(texts))


def begun(manager: GrammarManager, *texts: str) -> RequestGrammar:
    run = manager.compile(choice(*texts))
    assert run.wait(WAIT)
    assert run.ready
    return run


def test_a_run_follows_its_grammar(manager: GrammarManager) -> None:
    run = begun(manager, "12", "134")
    assert run.failure is None
    assert [words(m) for m in run.masks([])] == [mask_of([1])]
    assert run.accept([1])
    assert [words(m) for m in run.masks([])] == [mask_of([2, 3])]
    assert not run.accept([4])
    assert not run.accept([3, 5])
    assert [words(m) for m in run.masks([])] == [mask_of([2, 3])]
    assert run.accept([3, 4])
    (mask,) = run.masks([])
    assert words(mask) == mask_of([END])
    assert mask.dtype == np.int32
    assert run.accept([END, END])


def test_masks_of_a_draft_leave_the_state_where_it_was(manager: GrammarManager) -> None:
    run = begun(manager, "1234", "15")
    assert run.valid_prefix([1, 2, 4]) == 2
    assert run.valid_prefix([2]) == 0
    assert run.valid_prefix([1, 5, END]) == 3
    expected = [[1], [2, 5], [3]]
    assert [words(m) for m in run.masks([1, 2])] == [mask_of(tokens) for tokens in expected]
    assert run.accept([1, 5])
    assert [words(m) for m in run.masks([])] == [mask_of([END])]


def test_after_a_wrong_token_of_a_draft_everything_is_allowed(manager: GrammarManager) -> None:
    run = begun(manager, "123")
    found = run.masks([1, 3, 3])
    assert [words(m) for m in found[:2]] == [mask_of([1]), mask_of([2])]
    assert all((m == -1).all() for m in found[2:])
    assert run.accept([1])
    assert [words(m) for m in run.masks([2])] == [mask_of([2]), mask_of([3])]


def test_what_was_computed_for_a_draft_is_not_computed_again(manager: GrammarManager) -> None:
    run = begun(manager, "1234", "15")
    run.prefetch([1, 2])
    run.masks([1, 2])
    grammar = run._get_state().grammar  # type: ignore[attr-defined]
    assert sorted(grammar.filled) == [(), (1,), (1, 2)]
    assert run.accept([1])
    assert [words(m) for m in run.masks([2])] == [mask_of([2, 5]), mask_of([3])]
    assert sorted(grammar.filled) == [(), (1,), (1, 2)]


def test_masks_are_computed_beside_the_engine_s_thread(manager: GrammarManager) -> None:
    run = begun(manager, "1234")
    for token in (1, 2, 3):
        assert run.accept([token])
        for future in run._pending_fills:
            future.result(WAIT)
        run.masks([])
    assert all(name.startswith("grammar") for name in run._get_state().grammar.threads)  # type: ignore[attr-defined]


def test_a_run_is_not_ready_until_its_grammar_is_compiled(manager: GrammarManager, backend: Backend) -> None:
    backend.hold.clear()
    run = manager.compile(choice("12"))
    assert not run.ready
    assert run.failure is None
    assert not run.wait(0.01)
    backend.hold.set()
    assert run.wait(WAIT)
    assert [words(m) for m in run.masks([])] == [mask_of([1])]


def test_equal_forms_are_compiled_once_and_followed_apart(manager: GrammarManager, backend: Backend) -> None:
    runs = [begun(manager, "12", "13") for _ in range(3)]
    assert backend.compiled == ['["12", "13"]']
    assert backend.loaded == 1
    assert runs[0].accept([1, 2])
    assert runs[1].accept([1])
    assert [words(run.masks([])[0]) for run in runs] == [mask_of([END]), mask_of([2, 3]), mask_of([1])]


def test_a_form_that_does_not_compile_fails_its_run_alone(manager: GrammarManager) -> None:
    run = begun(manager, "")
    assert str(run.failure) == "there is nothing in it"
    assert not run.accept([1])
    assert run.valid_prefix([1]) == 0
    assert all((m == -1).all() for m in run.masks([1, 2]))
    assert begun(manager, "1").accept([1])
    assert str(begun(manager, "").failure) == "there is nothing in it"


def test_a_backend_that_gives_up_on_the_way_fails_the_run(manager: GrammarManager) -> None:
    run = begun(manager, "192")
    assert run.accept([1])
    assert run.accept([9])  # the limit is met when the next mask is computed
    assert (run.masks([])[0] == -1).all()
    assert str(run.failure) == "nine is too much"
    assert not run.accept([2])


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PluginError("cannot import it", "reinstall"), "the grammar backend cannot be used; the server's log says why"),
        (
            ZeroDivisionError("by zero"),
            "the grammar backend failed on this form; ask for a simpler one; the server's log says more",
        ),
    ],
)
def test_what_a_backend_raises_fails_the_run_and_is_for_the_log_alone(
    error: Exception, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Backend:
        raise error

    manager = GrammarManager(load, VOCAB_SIZE, [END])  # type: ignore[arg-type]
    run = begun(manager, "1")
    assert str(run.failure) == told
    assert isinstance(run.failure, RequestError) == isinstance(error, ZeroDivisionError)
    assert str(error) in caplog.text
    manager.shutdown()


def test_without_requests_for_a_form_there_are_no_threads() -> None:
    before = threading.active_count()
    manager = GrammarManager(Backend().load, VOCAB_SIZE, [END])  # type: ignore[arg-type]
    manager.shutdown()
    assert threading.active_count() == before


def test_many_runs_with_drafts_against_one_after_the_other(manager: GrammarManager) -> None:
    rng = random.Random(0)
    outputs = ["".join(str(rng.randrange(1, 5)) for _ in range(rng.randrange(1, 30))) for _ in range(40)]
    reference = Sequences([[int(d) for d in output] for output in outputs])
    runs = [(manager.compile(choice(*outputs)), list[int]()) for _ in range(30)]
    while runs:
        for run, tokens in list(runs):
            draft = [rng.randrange(1, 5) for _ in range(rng.randrange(4))]
            if rng.random() < 0.5:
                run.prefetch(draft)
            draft = draft[: run.valid_prefix(draft)] if rng.random() < 0.5 else draft
            masks = run.masks(draft)
            kept: list[int] = []
            for place, mask in enumerate(masks):
                allowed = reference.allowed(tokens + kept)
                assert words(mask) == mask_of([*allowed])
                kept.append(rng.choice(sorted(allowed)))
                if place == len(draft) or kept[-1] != draft[place]:
                    break
            assert run.accept(kept)
            tokens += kept
            if END in kept:
                runs.remove((run, tokens))


@pytest.mark.parametrize(
    ("allowed", "ends", "expected"),
    [
        ([END], [END], True),
        ([31, 63], [31, 63, 10**6], True),
        ([31], [31, 63], True),
        ([END, 31], [END], False),
        ([END, 31], [END, 31], True),
        ([], [END], True),
        ([END], [], False),
    ],
)
def test_only_end(backend: Backend, allowed: list[int], ends: list[int], expected: bool) -> None:
    manager = GrammarManager(backend.load, VOCAB_SIZE, ends)  # type: ignore[arg-type]
    mask = np.array(mask_of(allowed), np.uint32).view(np.int32)
    assert manager.allows_only_end(mask) is expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"json": {"b": 1, "a": 2}}, ("json", '{"b": 1, "a": 2}')),
        ({"json": '{"b":1}'}, ("json", '{"b":1}')),
        ({"json_object": True}, ("json_object", "")),
        ({"regex": "a+"}, ("regex", "a+")),
        ({"choice": ["a", "é"]}, ("choice", '["a", "\\u00e9"]')),
        ({"grammar": "start: /a/"}, ("grammar", "start: /a/")),
        ({"structural_tag": {"triggers": []}}, ("structural_tag", '{"triggers": []}')),
    ],
)
def test_every_form_has_a_source(given: dict[str, object], expected: tuple[str, str]) -> None:
    assert build_grammar_source(StructuredOutputs(**given)) == GrammarSource(*expected)  # type: ignore[arg-type]
