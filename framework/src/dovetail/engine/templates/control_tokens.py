"""Finds out which control tokens of a rendered conversation come from its messages, for any chat template.

A conversation is rendered a second time, with each character of messages that can begin a control token replaced by a
mark: a character that occurs nowhere else. Where the first text has a control token and the second one a mark, a
message has written it. Templates may look at what messages say, and then the two texts differ in more than the marks.
In this case fewer characters are marked, until they do not.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from dovetail.engine.templates.literals import Literals, MarkRules, mark_rules
from dovetail.engine.templates.marked_text import align_marked, choose_marks
from dovetail.engine.templates.rendered_prompt import find_control_tokens

logger = logging.getLogger("dovetail.engine")

MAX_RENDERS = 32
"""Maximum number of further renderings of one conversation. Nearly always there is one, or none."""
ROLE = ("messages", "role")
"""Where a message has its role."""
Render = Callable[[Mapping[str, Any]], str]
"""Renders other inputs in place of the given ones."""


def find_content_tokens(
    text: str, inputs: Mapping[str, Any], control_tokens: Sequence[str], literals: Literals, render: Render
) -> tuple[int, ...]:
    """The offsets of control tokens in a rendered text of which any part is known to come from the inputs.

    Args:
        inputs: messages, tools, documents and other variables, by name.
        literals: the template's own texts.
        render: renders other inputs; any exception means that the template refuses them.
    """
    rules = mark_rules(tuple(control_tokens), literals)
    given = _list_texts(inputs)
    concerned = [i for i, (each, is_role) in enumerate(given) if rules.concerns(each, is_role)]
    search = _Search(text, inputs, given, concerned, rules, render)
    if not concerned or not (aligned := search.run()):
        return ()

    def is_plain(start: int, end: int) -> bool:
        return aligned[start:end] != text[start:end]

    return tuple(start for start, _, plain in find_control_tokens(text, rules.tokens, is_plain) if plain)


class _Search:
    """The search for marks with which the template renders the same text."""

    def __init__(
        self,
        text: str,
        inputs: Mapping[str, Any],
        given: list[tuple[str, bool]],
        concerned: list[int],
        rules: MarkRules,
        render: Render,
    ) -> None:
        self._text, self._inputs, self._given, self._render = text, inputs, given, render
        self._concerned, self._rules = concerned, rules
        self._renders = 0
        self._marks: dict[str, str] = {}
        self._marked: dict[tuple[int, int], str] = {}
        self._aligned = ""

    def run(self) -> str:
        """The text with marks where it comes from marked characters; empty if that is not known."""
        marks = choose_marks(self._rules.characters, [self._text, *(text for text, _ in self._given)])
        if marks is None:
            _say_unknown(self._rules.literals)
            return ""
        self._marks = marks
        last = self._rules.LEVELS - 1
        chosen = next((level for level in range(last) if self._works(dict.fromkeys(self._concerned, level))), last)
        levels = dict.fromkeys(self._concerned, chosen)
        for better in range(chosen):
            self._improve(levels, [i for i in self._concerned if self._gains(i, levels[i], better)], better)
        if any(self._gains(i, levels[i], self._rules.ALL_FOUND) for i in self._concerned):
            _say_unknown(self._rules.literals)
        return self._aligned

    def _improve(self, levels: dict[int, int], candidates: list[int], level: int) -> None:
        """Mark as many of the candidates as possible as the level says, by halving."""
        if not candidates or self._renders >= MAX_RENDERS:
            return
        improved = levels | dict.fromkeys(candidates, level)
        if self._works(improved):
            levels.update(improved)
        elif len(candidates) > 1:
            half = len(candidates) // 2
            self._improve(levels, candidates[:half], level)
            self._improve(levels, candidates[half:], level)

    def _works(self, levels: Mapping[int, int]) -> bool:
        """Whether the template renders the same text with these marks. If so, they count."""
        if self._renders >= MAX_RENDERS:
            return False
        self._renders += 1
        texts = [text for text, _ in self._given]
        for i, level in levels.items():
            texts[i] = self._mark(i, level)
        marked = iter(texts)
        try:
            text = self._render({name: _replace_texts(value, marked) for name, value in self._inputs.items()})
        except Exception:  # the template refuses the marks
            return False
        aligned = align_marked(self._text, text, self._marks)
        self._aligned = self._aligned if aligned is None else aligned
        return aligned is not None

    def _gains(self, index: int, level: int, better: int) -> bool:
        return level > better and self._mark(index, better) != self._mark(index, level)

    def _mark(self, index: int, level: int) -> str:
        if (index, level) not in self._marked:
            self._marked[index, level] = self._rules.mark(*self._given[index], level, self._marks)
        return self._marked[index, level]


@functools.lru_cache(maxsize=32)
def _say_unknown(literals: Literals) -> None:
    """Written once for each template."""
    logger.warning(
        "a message holds control tokens where the chat template looks for them, so that it is not known whether "
        "they are the template's: they are tokenized as control tokens (said once for this template)"
    )


def _list_texts(inputs: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """All texts and keys, in order, each with whether it is a message's role."""
    found: list[tuple[str, bool]] = []

    def add(value: Any, place: tuple[Any, ...]) -> None:
        if isinstance(value, str):
            found.append((value, place == ROLE))
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                add(key, ())
                add(inner, (*place, key))
        elif isinstance(value, list | tuple):
            for inner in value:
                add(inner, place)

    for name, value in inputs.items():
        add(value, (name,))
    return found


def _replace_texts(value: Any, texts: Iterator[str]) -> Any:
    """A copy of a value with other texts and keys, in the order of :func:`_list_texts`."""
    if isinstance(value, str):
        return next(texts)
    if isinstance(value, Mapping):
        return {_replace_texts(key, texts): _replace_texts(inner, texts) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_texts(inner, texts) for inner in value]
    return value
