"""What grammars cost: memory is measured and bounded, hostile ones are refused with the limit, panics are errors."""

from __future__ import annotations

import json

import pytest
from dovetail_grammars_llguidance import backend as module
from dovetail_grammars_llguidance.backend import Backend
from dovetail_grammars_llguidance.validation import MAX_LEXER_STATES, validate_source

from dovetail.api import GrammarKind, GrammarSource, RequestError

from .tokens import END, VOCAB_SIZE, Follower, letters

MB = 1 << 20


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend(letters(), VOCAB_SIZE, [letters().token_to_id(END)])


def size(backend: Backend, kind: GrammarKind, text: str) -> int:
    found = backend.compile(GrammarSource(kind, text)).num_bytes
    assert found is not None
    return found


def test_the_memory_of_a_grammar_is_told(backend: Backend) -> None:
    many = json.dumps([f"{number:08d}" + "x" * 80 for number in range(5000)])
    assert size(backend, "regex", "[a-z]+") < MB
    assert 2 * MB < size(backend, "choice", many) < 30 * MB


def test_states_count_as_long_as_they_are_there(backend: Backend) -> None:
    grammar = backend.compile(GrammarSource("choice", json.dumps(["x" * 50_000, "y"])))
    before = grammar.num_bytes
    assert before is not None
    states = [grammar.start() for _ in range(64)]
    with_states = grammar.num_bytes
    assert with_states is not None
    assert with_states > before + 64 * 50_000
    del states
    assert grammar.num_bytes == before


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("choice", json.dumps(["x" * 900_000])),
        ("regex", "0a{1000000}"),
        ("regex", "(ab{1000}){1000}"),
        ("grammar", "start: R0\n" + "".join(f"R{i}: R{i + 1} R{i + 1}\n" for i in range(18)) + 'R18: "a"'),
    ],
)
def test_one_that_takes_too_much_is_refused_with_the_limit(backend: Backend, kind: GrammarKind, text: str) -> None:
    with pytest.raises(
        RequestError, match=r"compiled it takes \d+ MiB, more than the limit of 64 MiB; make it simpler"
    ):
        backend.compile(GrammarSource(kind, text))


def test_a_lexer_that_grows_while_it_is_used_comes_to_its_limit() -> None:
    found = Follower("json", '{"type": "string", "minLength": 100000}')
    assert found.accept('"')

    def go_on() -> None:
        for _ in range(MAX_LEXER_STATES):
            assert found.accept("a")
            found.allowed()

    with pytest.raises(RequestError, match=f"too many states: {MAX_LEXER_STATES}") as caught:
        go_on()
    assert "\n" not in str(caught.value)


def test_the_parse_of_one_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Follower("regex", "a*")
    monkeypatch.setattr(module, "MAX_STATE_BYTES", 1000)
    monkeypatch.setattr(module, "STATE_CHECK_TOKENS", 8)
    with pytest.raises(RequestError, match="the output cannot go on in its form: its parse takes 0 MiB, more than"):
        found.accept(*["a"] * 8)


@pytest.mark.parametrize("word", ["maxLength", "minLength", "minItems", "multipleOf"])
def test_what_llguidance_panics_of_is_an_error(backend: Backend, word: str) -> None:
    for value in ("😀" * 100, "é" * 99):
        source = GrammarSource("json", json.dumps({word: value}))
        for check in (validate_source, backend.compile):
            with pytest.raises(RequestError, match=r"JSON schema cannot be used|llguidance fails on it") as caught:
                check(source)
            assert len(str(caught.value).splitlines()) == 1
    validate_source(GrammarSource("json", "{}"))


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"required": 1.5}, "required must be a list, at #, found '1.5'"),
        ({"required": [1]}, "required must list names, at #"),
        ({"allOf": {"a": 1}}, "allOf must be a list, at #"),
        ({"items": {"patternProperties": [1]}}, "patternProperties must be an object, at #/items"),
        ({"properties": {"$ref": "#"}, "anyOf": "x"}, "anyOf must be a list"),
    ],
)
def test_keywords_of_another_type_are_named(schema: dict[str, object], told: str) -> None:
    with pytest.raises(RequestError) as caught:
        validate_source(GrammarSource("json", json.dumps(schema)))
    assert told in str(caught.value)
