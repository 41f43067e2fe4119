"""A backend of choices, and ways to get it wrong."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from dovetail.api import Grammar, GrammarBackend, GrammarSource, GrammarState, RequestError


def validate(source: GrammarSource) -> None:
    _choices(source)


def validate_nothing(source: GrammarSource) -> None:
    pass


def validate_roughly(source: GrammarSource) -> None:
    json.loads(source.text)
    validate(source)


def validate_elsewhere(source: GrammarSource) -> None:
    try:
        validate(source)
    except RequestError as error:
        raise RequestError(error.problem, param="choice") from None


def _choices(source: GrammarSource) -> list[str]:
    try:
        found = json.loads(source.text) if source.kind == "choice" else None
        matches = isinstance(found, list) and bool(found) and all(isinstance(text, str) for text in found)
        if matches:
            "".join(found).encode()
    except ValueError as error:
        raise RequestError(str(error), param="structured_outputs") from None
    if not matches:
        raise RequestError("wanted a choice", param="structured_outputs")
    return list(found)


class Choices(GrammarBackend, Grammar):
    def __init__(self, tokenizer: Any, vocab_size: int, eos_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.ends = set(eos_ids)

    def compile(self, source: GrammarSource) -> Grammar:
        made = type(self)(self.tokenizer, self.vocab_size, sorted(self.ends))
        made.outputs = [self.tokenizer.encode(text).ids for text in _choices(source)]
        return made

    outputs: list[list[int]] = []

    def start(self) -> GrammarState:
        return Place(self)

    def allowed(self, tokens: list[int]) -> set[int]:
        if self.ends & set(tokens):
            return self.ends
        found: set[int] = set()
        for output in self.outputs:
            if output == tokens:
                found |= self.ends
            elif output[: len(tokens)] == tokens:
                found.add(output[len(tokens)])
        return found


class Place(GrammarState):
    def __init__(self, grammar: Choices) -> None:
        self.grammar = grammar
        self.tokens: list[int] = []

    def accept(self, token: int) -> bool:
        matches = token in self.grammar.allowed(self.tokens)
        if matches:
            self.tokens.append(token)
        return matches

    def rollback(self, count: int) -> None:
        del self.tokens[len(self.tokens) - count :]

    def fill_mask(self, mask: np.ndarray) -> None:
        flags = np.zeros(len(mask) * 32, dtype=np.uint8)
        flags[list(self.grammar.allowed(self.tokens))] = 1
        mask[:] = np.packbits(flags, bitorder="little").view("<i4")


class OneEnd(Choices):
    """Forgets all end tokens but one."""

    def allowed(self, tokens: list[int]) -> set[int]:
        found = super().allowed(tokens)
        return found - {max(self.ends)}


class GoesOn(Choices):
    """Anything may come behind an end."""

    def allowed(self, tokens: list[int]) -> set[int]:
        return {1} if self.ends & set(tokens) else super().allowed(tokens)


class Beyond(Choices):
    """Allows an id that is no token."""

    def allowed(self, tokens: list[int]) -> set[int]:
        return super().allowed(tokens) | {self.vocab_size - 1}


class Early(Choices):
    """May end anywhere."""

    def allowed(self, tokens: list[int]) -> set[int]:
        return super().allowed(tokens) | self.ends


class Short(Choices):
    """Knows the first choice alone."""

    def compile(self, source: GrammarSource) -> Grammar:
        return super().compile(GrammarSource("choice", json.dumps(_choices(source)[:1])))


class Shared(Choices):
    """All sequences of a grammar have one state."""

    def start(self) -> GrammarState:
        self.place = getattr(self, "place", None) or Place(self)
        return self.place


class Sized(Choices):
    """Tells its memory."""

    @property
    def num_bytes(self) -> int | None:
        return sum(map(len, self.outputs))


class Weightless(Choices):
    """Takes every grammar for as large as any other."""

    @property
    def num_bytes(self) -> int | None:
        return 5


class Stuck(Choices):
    """Cannot go back."""

    def start(self) -> GrammarState:
        place = Place(self)
        place.rollback = lambda count: None  # type: ignore[method-assign]
        return place
