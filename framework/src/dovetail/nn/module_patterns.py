"""Regular expressions of an adapter that choose among a model's modules, run by an engine without backtracking.

PEFT runs them with Python's ``re``, whose time grows exponentially with patterns such as ``(a+)+b``. Here it is the
engine of Rust's ``regex`` crate, which pydantic brings: its time is linear in the text, and the size of a compiled
pattern is limited. It lacks backreferences and look-around, which no adapter is known to use.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

from pydantic_core import SchemaError, SchemaValidator, core_schema

from dovetail.api.text import quote_foreign

T = TypeVar("T")

PLAIN = re.compile(r"\^?([\w-]+(?:\\?\.[\w-]+)*)\$?")
"""The name of a module, or its end, as nearly all patterns are. Its full stops may be escaped."""
MAX_CHARACTERS = 500
"""Of a pattern that is not plain."""
MAX_SECONDS = 2.0
"""Of processor time for all patterns of an adapter. Usual ones take a few milliseconds."""


class ModulePatterns(Generic[T]):
    """Values for modules, by patterns of which each must match a whole name, or all of it behind one of its full stops.

    Args:
        values: pattern → value.

    Raises:
        ValueError: a pattern is none, or is too large; the message names it.
    """

    def __init__(self, values: Mapping[str, T]) -> None:
        self.values = list(values.values())
        self._plain: dict[tuple[bool, str], int] = {}
        self._others: list[tuple[int, str, SchemaValidator]] = []
        self._deadline = time.thread_time() + MAX_SECONDS
        for place, pattern in enumerate(values):
            if match := PLAIN.fullmatch(pattern):
                key = (pattern.startswith("^"), match[1].replace("\\.", "."))
                self._plain.setdefault(key, place)
            else:
                self._others.append((place, pattern, self._compile(pattern)))

    def find(self, modules: Iterable[str]) -> dict[str, T]:
        """The value of the first pattern that matches, for each module that one matches.

        Raises:
            ValueError: it takes more than :data:`MAX_SECONDS`.
        """
        self._deadline = time.thread_time() + MAX_SECONDS
        places = ((module, self._find_place(module)) for module in modules)
        return {module: self.values[place] for module, place in places if place is not None}

    def _find_place(self, module: str) -> int | None:
        found = [self._plain[key] for key in _plain_keys(module) if key in self._plain]
        for place, pattern, compiled in self._others:
            if compiled.isinstance_python(module):
                found.append(place)
                break  # the others come later
            self._check_time(pattern)
        return min(found, default=None)

    def _compile(self, pattern: str) -> SchemaValidator:
        self._check_time(pattern)
        if len(pattern) > MAX_CHARACTERS:
            raise ValueError(
                f"the pattern {quote_foreign(pattern, 60)} has {len(pattern)} characters, wanted at most {MAX_CHARACTERS}"
            )
        try:
            # On its own first: an unbalanced parenthesis must not end the group around it.
            _compile(pattern)
            return _compile(rf"^(?:.*\.)?(?:{pattern})$")
        except SchemaError as error:
            reason = str(error).strip().splitlines()[-1].strip().removeprefix("error: ").removeprefix("SchemaError: ")
            raise ValueError(
                f"the pattern {quote_foreign(pattern, 60)} is no regular expression of the kind that is run here ({reason})"
            ) from None

    def _check_time(self, pattern: str) -> None:
        if time.thread_time() > self._deadline:
            raise ValueError(f"its patterns, such as {quote_foreign(pattern, 60)}, take more than {MAX_SECONDS:.0f} s")


def _compile(pattern: str) -> SchemaValidator:
    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))


def _plain_keys(module: str) -> Iterable[tuple[bool, str]]:
    """(whether the pattern is anchored, its text) of every plain pattern that matches a module."""
    yield True, module
    yield False, module
    start = module.find(".")
    while start >= 0:
        yield False, module[start + 1 :]
        start = module.find(".", start + 1)
