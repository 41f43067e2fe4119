"""Hostile output formats: checked as a server does, then compiled and followed for some tokens as the engine does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from dovetail.api import GrammarSource, RequestError
from dovetail.api.grammar import GrammarBackend, GrammarKind
from dovetail.engine.grammars.check_process import SLOW_S, CheckProcess
from dovetail.engine.grammars.mask_threads import MASK_SECONDS, MaskThreads
from dovetail.kernel.discovery import import_dotted
from dovetail.testing.grammars import small_tokenizer

from .mutations import NASTY_VALUES, damage_json, dump_json
from .trial import BLAME, MAX_MESSAGE, MEGABYTES, SECONDS, run_trial

VALIDATE = "dovetail_grammars_llguidance.validation:validate_source"
BACKEND = "dovetail_grammars_llguidance.backend:Backend"
STEPS = 24
MAX_CHARACTERS = 11 * 10**5
"""A little more than the backend takes."""
NUMBERS = (
    0,
    1,
    2,
    -1,
    1.5,
    31,
    1000,
    10**6,
    2**31,
    2**63,
    2**64,
    10**30,
    1e308,
    -1e308,
    1e-300,
    0.1,
    "😀" * 100,
    "x" * 10**5,
)
TEXTS = ("", "a", "é", "😀" * 50, "\x00", "\x7f", "\u2028", '"', "\\", "x" * 300, "<|end|>", "</a>", "{", "a\nb")
ATOMS = (
    "a",
    ".",
    "\\w",
    "\\p{L}",
    "[^a]",
    "[a-z]",
    "\\s",
    "(?i:k)",
    "\\x{10FFFF}",
    "é",
    "^",
    "$",
    "\\b",
    "(?=a)",
    "(a)\\1",
    "[[:alpha:]&&[^b]]",
    "",
)
REPEATS = (
    "",
    "",
    "*",
    "+",
    "?",
    "{3}",
    "{0,20}",
    "{1000}",
    "{1000000}",
    "{0,1000000}",
    "{9,}",
    "{99999999999}",
    "{2,1}",
)
WORDS = (
    *("minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    *("minItems", "maxItems", "minProperties", "maxProperties", "required", "type", "enum", "const", "format"),
    *("pattern", "$ref", "$id", "$anchor", "uniqueItems", "x-guidance", "x-strict", "propertyNames", "not"),
)  # fmt: skip


def random_pattern(rng: random.Random, depth: int = 0) -> str:
    parts = []
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        part = rng.choice(ATOMS)
        if depth < 4 and rng.random() < 0.4:
            part = f"({random_pattern(rng, depth + 1)})"
        parts.append(part + rng.choice(REPEATS))
    pattern = rng.choice(("", "", "|", "")).join(parts)
    return pattern * rng.choice((1, 1, 1, 20, 1000)) if depth == 0 else pattern


def random_schema(rng: random.Random, depth: int = 0) -> Any:
    if depth > 4 or rng.random() < 0.1:
        return rng.choice(
            (True, False, {}, {"type": "string"}, {"type": "integer"}, {"$ref": "#"}, {"$ref": "#/$defs/a"})
        )
    inner: Callable[[], Any] = lambda: random_schema(rng, depth + 1)  # noqa: E731
    many = rng.choice((1, 2, 3, 10, 60 if depth < 2 else 3))
    schema: dict[str, Any] = {}
    for _ in range(rng.choice((1, 1, 2, 4))):
        match rng.randrange(9):
            case 0:
                schema["properties"] = {f"p{i}": inner() for i in range(many)}
            case 1:
                schema[rng.choice(("allOf", "anyOf", "oneOf"))] = [inner() for _ in range(many)]
            case 2:
                schema["items"] = inner()
            case 3:
                schema["patternProperties"] = {f"^{random_pattern(rng, 2)}{i}$": inner() for i in range(many)}
            case 4:
                schema["pattern"] = random_pattern(rng, 1)
            case 5:
                schema["enum"] = [rng.choice((*TEXTS, *NASTY_VALUES)) for _ in range(many * 20)]
            case 6:
                schema["$defs"] = {name: inner() for name in "abc"}
            case 7:
                schema["required"] = [f"p{i}" for i in range(many)]
            case _:
                schema[rng.choice(WORDS)] = rng.choice((*NUMBERS, *NUMBERS, *NASTY_VALUES, "object", "#/$defs/b"))
    return schema


def random_lark(rng: random.Random) -> str:
    count = rng.choice((2, 5, 30, 300))
    names = [f"{rng.choice('rR')}{i}" for i in range(count)]

    def expression(depth: int = 0) -> str:
        parts = []
        for _ in range(rng.choice((1, 2, 2, 4, 30 if depth == 0 else 2))):
            part = rng.choice(
                (rng.choice(names), json.dumps(rng.choice(TEXTS)), f"/{random_pattern(rng, 3) or 'a'}/", "%json {}")
            )
            if depth < 2 and rng.random() < 0.2:
                part = f"({expression(depth + 1)})"
            parts.append(part + rng.choice(("", "", "", "*", "+", "?", "{1000}", "{1000,}")))
        return rng.choice((" ", " ", " | ", " & ")).join(parts)

    rules = [f"start: {expression()}", *(f"{name}: {expression()}" for name in names)]
    return "\n".join(rules) + rng.choice(("", "", '\n%ignore " "', "\n%import common.INT", "\n("))


def random_part(rng: random.Random, depth: int = 0) -> Any:
    inner: Callable[[], Any] = lambda: random_part(rng, depth + 1)  # noqa: E731
    many = rng.choice((1, 2, 3, 30 if depth < 2 else 2))
    kind = rng.randrange(10 if depth < 5 else 5)
    tags = lambda: [  # noqa: E731
        {
            "type": "tag",
            "begin": rng.choice(("<", "<f", "<|end|>")) + rng.choice(TEXTS),
            "content": inner(),
            "end": rng.choice(TEXTS),
        }
        for _ in range(many)
    ]
    return (
        lambda: {"type": "const_string", "value": rng.choice(TEXTS)},
        lambda: {"type": "json_schema", "json_schema": random_schema(rng, 2)},
        lambda: {"type": "regex", "pattern": random_pattern(rng, 1)},
        lambda: {"type": "any_text", "excludes": rng.choice(([], list(TEXTS[1:]), ["ab"] * 1000))},
        lambda: {"type": "grammar", "grammar": random_lark(rng)},
        lambda: {"type": rng.choice(("sequence", "or")), "elements": [inner() for _ in range(many)]},
        lambda: {"type": rng.choice(("optional", "star", "plus")), "content": inner()},
        lambda: {"type": "repeat", "min": rng.choice((0, 1, 100, 10_000)), "max": rng.choice((-1, 1, 100, 10_000)), "content": inner()},
        lambda: {"type": "triggered_tags", "triggers": ["<"], "tags": tags(), "stop_after_first": rng.random() < 0.5},
        lambda: {"type": "tags_with_separator", "tags": tags(), "separator": rng.choice(TEXTS)},
    )[kind]()  # fmt: skip


def random_source(rng: random.Random) -> GrammarSource:
    """A format, damaged or not, of at most :data:`MAX_CHARACTERS`."""
    while True:
        source = _random_source(rng)
        if len(source.text) <= MAX_CHARACTERS:
            return source


def _random_source(rng: random.Random) -> GrammarSource:
    kind: GrammarKind = rng.choice(
        ("json", "json", "json", "regex", "choice", "grammar", "structural_tag", "structural_tag")
    )
    if kind == "regex":
        return GrammarSource(kind, random_pattern(rng))
    if kind == "grammar":
        return GrammarSource(kind, random_lark(rng))
    if kind == "json":
        value = random_schema(rng)
    elif kind == "choice":
        many = rng.choice((1, 3, 100, 20_000))
        value = [rng.choice(TEXTS) + str(rng.randrange(10**9)) * rng.choice((1, 1, 3)) for _ in range(many)]
        if rng.random() < 0.1:
            value = ["x" * rng.choice((1000, 10**5, 9 * 10**5))]
    else:
        value = {"type": "structural_tag", "format": random_part(rng)}
    if rng.random() < 0.3:
        value = damage_json(value, rng)
    return GrammarSource(kind, dump_json(value).decode())


class Subject:
    """The backend, loaded before the trials fork."""

    def __init__(self) -> None:
        self.tokenizer: Tokenizer = small_tokenizer()
        self.vocab_size = self.tokenizer.get_vocab_size() + 5
        end = self.tokenizer.token_to_id("<|end|>")
        self.backend: GrammarBackend = import_dotted(BACKEND)(self.tokenizer, self.vocab_size, [end])
        self.checker = CheckProcess(VALIDATE)

    def find_problem(self, source: GrammarSource, seed: int, slowness: float) -> str | None:
        try:
            answer = self.checker.check(source, SLOW_S * slowness)
        except TimeoutError:
            return "the check does not end"
        except RequestError as error:
            return message_problem(str(error))
        if "problem" in answer:
            return message_problem(f"{answer['problem']}; {answer['hint']}")
        outcome = run_trial(lambda: self.follow(source, random.Random(seed)), SECONDS * slowness, MEGABYTES)
        return outcome.problem

    def follow(self, source: GrammarSource, rng: random.Random) -> None:
        threads = MaskThreads(1, MASK_SECONDS)
        grammar = self.backend.compile(source)
        assert grammar.num_bytes is None or grammar.num_bytes >= 0
        for _ in range(3):
            state = grammar.start()
            for _ in range(STEPS):
                mask = np.zeros(-(-self.vocab_size // 32), dtype=np.int32)
                filled = threads.submit(state.fill_mask, mask)
                threads.join(filled)
                filled.result()
                allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
                token = int(rng.choice(allowed.tolist()))
                if rng.random() < 0.1:
                    assert state.accept(token)
                    state.rollback(1)
                assert state.accept(token)


def message_problem(message: str) -> str | None:
    """What is wrong with an error of the check."""
    if any(word in message for word in BLAME):
        return f"somebody is blamed: {message!r}"
    if len(message.splitlines()) > 1 or not all(character.isprintable() for character in message):
        return f"more than a line, or control characters: {message!r}"
    return f"{len(message)} characters: {message[:200]!r}" if len(message) > MAX_MESSAGE else None


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    made = Subject()
    yield made
    made.checker.close()


def run(subject: Subject, seeds: range, slowness: float) -> None:
    problems = []
    for seed in seeds:
        source = random_source(random.Random(seed))
        if problem := subject.find_problem(source, seed, slowness):
            problems.append(f"{seed} ({source.kind}, {len(source.text)}, {source.text[:200]!r}): {problem[-1500:]}")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_formats(subject: Subject, first: int, slowness: Callable[[], float]) -> None:
    run(subject, range(first, first + 20), slowness())


def test_a_mask_that_takes_minutes_ends_its_request(subject: Subject, slowness: Callable[[], float]) -> None:
    """The backend has no limit that would stop it: found by the sweep."""
    grammar = r"""
        start: R0{1000} | "\u00e9"+
        R0: "\u00e9"{1000,}
        R1: /(*){2,1}(é{9,})*/* %json {}*
    """
    source = GrammarSource("grammar", "\n".join(line.strip() for line in grammar.strip().splitlines()))
    outcome = run_trial(lambda: subject.follow(source, random.Random(1585)), SECONDS * slowness(), MEGABYTES)
    assert outcome.problem is None
    assert outcome.message == f"the grammar takes more than {MASK_SECONDS:g} s for one token; make it simpler"


@pytest.mark.sweep
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_many_formats(subject: Subject, first: int, slowness: Callable[[], float]) -> None:
    run(subject, range(first, first + 100), slowness())
