"""Small schemas at random, which ask for much at once, and outputs drawn from the masks for them."""

from __future__ import annotations

import random
from typing import Any

from .tokens import END, TURN, Follower

OUTPUTS = 4
MAX_TOKENS = 120
NAMES = ("a", "b", "ab", "x-1")
PATTERNS = ("^a$", "^a", "b$", "^[ab]$", "^x-", "^x-1$", "^(a|b)$", "^b?$")
CLOSING = frozenset(('"', "}", "]", ":", ",", "1", "0", "t", "n", END, TURN))


def random_schema(rng: random.Random) -> dict[str, Any]:
    schema = _schema(rng, 0)
    root = {"anyOf": [schema]} if isinstance(schema, bool) else schema
    return {**root, "$defs": {"p": _schema(rng, 1), "q": _schema(rng, 1)}}


def _schema(rng: random.Random, depth: int) -> Any:
    if depth > 3:
        return rng.choice([{"type": "integer"}, {"type": "string"}, {"enum": ["a", 1]}, True, {}])
    makers = [_simple, _text, _number, _values, _reference, _combined, _array, _object, _object, _object]
    return rng.choice(makers)(rng, depth)


def _simple(rng: random.Random, depth: int) -> Any:
    return rng.choice(
        [True, False, {}, {"type": "null"}, {"type": ["boolean", "object"]}, {"const": rng.choice([1, {}])}]
    )


def _some(rng: random.Random, **choices: Any) -> dict[str, Any]:
    """Each of these in one case of three."""
    return {word: rng.choice(values) for word, values in choices.items() if rng.random() < 0.33}


def _text(rng: random.Random, depth: int) -> Any:
    patterns = ["^a$", "^a", "b$", "^[ab]{2}$", "a|b", "^$"]
    return {"type": "string"} | _some(
        rng, pattern=patterns, minLength=range(4), maxLength=range(4), format=["date", "odd"]
    )


def _number(rng: random.Random, depth: int) -> Any:
    bounds = [0, 1, -1, 2, 1.5, 10]
    return {"type": rng.choice(["integer", "number"])} | _some(
        rng, minimum=bounds, maximum=bounds, exclusiveMinimum=bounds, exclusiveMaximum=bounds, multipleOf=[1, 2, 5, 0.5]
    )


def _values(rng: random.Random, depth: int) -> Any:
    return {"enum": [rng.choice(["a", "b", 1, None, {"a": 1}, [1], 1.5]) for _ in range(rng.randint(0, 3))]}


def _reference(rng: random.Random, depth: int) -> Any:
    return {"$ref": rng.choice(["#", "#/$defs/p", "#/$defs/q"])}


def _combined(rng: random.Random, depth: int) -> Any:
    parts = [_schema(rng, depth + 1) for _ in range(rng.randint(1, 2))]
    more = _schema(rng, depth + 1)
    return {**(more if isinstance(more, dict) else {}), rng.choice(["anyOf", "oneOf", "allOf"]): parts}


def _array(rng: random.Random, depth: int) -> Any:
    parts = [_schema(rng, depth + 1) for _ in range(2)]
    return {"type": "array"} | _some(
        rng,
        items=parts,
        prefixItems=[parts, parts[:1]],
        minItems=range(3),
        maxItems=range(3),
        uniqueItems=[True, False],
    )


def _object(rng: random.Random, depth: int) -> Any:
    def parts(names: Any, most: int) -> dict[str, Any]:
        return {name: _schema(rng, depth + 1) for name in rng.sample(names, rng.randint(0, most))}

    schema = {"type": "object", "properties": parts(NAMES, 3)} | _some(
        rng,
        required=[rng.sample(NAMES, 1), rng.sample(NAMES, 2)],
        patternProperties=[parts(PATTERNS, 2)],
        additionalProperties=[False, False, True, _schema(rng, depth + 1)],
    )
    if rng.random() < 0.2:
        schema |= _some(rng, minProperties=range(3), maxProperties=range(3), propertyNames=[{"enum": ["a", "b"]}])
    return schema


def walk(found: Follower, rng: random.Random) -> str | None:
    """An output drawn at random, of which much brings it nearer to its end; None if it did not come to one."""
    text: list[str] = []
    while len(text) < MAX_TOKENS:
        allowed = sorted(found.allowed())
        closing = [token for token in allowed if token in CLOSING]
        token = rng.choice(closing if closing and rng.random() < 0.6 else allowed)
        assert found.accept(token)
        if token in (END, TURN):
            return found.tokenizer.decode([found.ids[token] for token in text])
        text.append(token)
    return None
