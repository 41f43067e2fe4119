"""Which characters of a message can be a control token's, given the texts that a chat template has itself."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from jinja2 import nodes

from dovetail.engine.templates.rendered_prompt import control_pattern

LOOKING = (nodes.Compare, nodes.Call, nodes.Filter, nodes.Test, nodes.Assign)
"""Expressions that look for a string, directly or by a name."""
LONGEST_REST = 256
"""Number of characters at a text's beginning that are compared with the rest of a control token."""


@dataclass(frozen=True, eq=False)
class Literals:
    """The texts in a template's source.

    Attributes:
        constants: strings with which the template may compare what messages say.
        written: all texts that it may write, and all strings.
        names: names of fields that it reads.
    """

    constants: frozenset[str]
    written: frozenset[str]
    names: frozenset[str]


def read_literals(tree: nodes.Template) -> Literals:
    """The texts of a parsed template."""
    strings = [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    constants = frozenset(
        node.value
        for place in tree.find_all(LOOKING)
        for node in place.find_all(nodes.Const)
        if isinstance(node.value, str)
    )
    written = frozenset((*strings, *(node.data for node in tree.find_all(nodes.TemplateData))))
    names = frozenset(node.attr for node in tree.find_all(nodes.Getattr))
    return Literals(constants, written, names)


class MarkRules:
    """Which characters of the inputs are marked, for one template and one vocabulary.

    Levels, from the one that marks most:

    0. every character that a control token begins with, except where the template has a constant that is none, such as
       ``</think>``;
    1. the first character of each control token, and of what may become one with the text that follows;
    2. their last characters, for templates that look at how a text begins, or sort by it;
    3. those, except in constants of the template;
    4. nothing.

    Levels 0 to 2 also mark a text that may continue a control token which the template begins, such as ``<{{ name }}>``.
    """

    LEVELS, ALL_FOUND = 5, 2

    def __init__(self, tokens: tuple[str, ...], literals: Literals) -> None:
        self.tokens, self.literals = tokens, literals
        self._firsts = frozenset(t[0] for t in tokens if not t[0].isalnum() and not t[0].isspace())
        self._first = re.compile(f"[{''.join(map(re.escape, sorted(self._firsts)))}]" if self._firsts else r"(?!)")
        self._whole = re.compile(f"(?=({control_pattern(tokens).pattern}))", re.DOTALL)
        self._prefixes = {t[:n] for t in tokens if t[0] in self._firsts for n in range(1, len(t))}
        self._longest = max(map(len, tokens), default=0)
        constants = {c for c in literals.constants if self._first.search(c)}
        risky = {c for c in constants if self._can_begin(c)}
        self._risky, self._harmless = (control_pattern(tuple(sorted(each))) for each in (risky, constants - risky))
        ends = {t[-n:] for t in literals.written for n in range(1, min(len(t), self._longest) + 1)} & self._prefixes
        self._rests = {_letters(t[n:]) for t in tokens for n in range(1, len(t)) if t[:n] in ends} - {""}
        self._markable = {c for token in tokens for c in token if not c.isspace() and c not in "\"'\\&"}
        self._rest_prefixes = {rest[:n] for rest in self._rests for n in range(1, len(rest) + 1)}
        self._longest_rest = max(map(len, self._rests), default=0)

    def _can_begin(self, constant: str) -> bool:
        """Whether a control token may begin in a constant."""
        return any(
            constant[i:] in self._prefixes or self._whole.match(constant, i)
            for i, character in enumerate(constant)
            if character in self._firsts
        )

    def concerns(self, text: str, is_role: bool) -> bool:
        """Whether anything of a text may be marked."""
        return bool(self._first.search(text) or self._whole.search(text)) or self._continues(text, is_role)

    def _continues(self, text: str, is_role: bool) -> bool:
        """Whether a text may continue a control token that the template has begun, which a role is meant to do."""
        if not self._rests or is_role or text in self.literals.written or text in self.literals.names:
            return False
        letters = _letters(text[:LONGEST_REST])
        return letters in self._rest_prefixes or any(
            letters[:n] in self._rests for n in range(1, min(len(letters), self._longest_rest) + 1)
        )

    @property
    def characters(self) -> set[str]:
        """All characters that may be marked. White space and quotes are not, which templates strip and escape."""
        return self._markable | {token[0] for token in self.tokens} | {token[-1] for token in self.tokens}

    def mark(self, text: str, is_role: bool, level: int, marks: Mapping[str, str]) -> str:
        """The text with marks.

        Args:
            marks: character → mark.
        """
        if level >= self.LEVELS - 1:
            return text
        places = self._places(text, at_end=level >= 2)
        if level <= self.ALL_FOUND and self._continues(text, is_role):
            found = [i for i, c in enumerate(text) if c in self._markable]
            if level == self.ALL_FOUND:  # without what a template may look at
                found = [i for i in found if text[i] not in self._firsts][1:] or found[-1:]
            places.update(found)
        if level > self.ALL_FOUND:
            places -= {i for match in self._risky.finditer(text) for i in range(*match.span())}
        marked = "".join([marks[c] if i in places else c for i, c in enumerate(text)]) if places else text
        if level:
            return marked
        table = {ord(c): marks[c] for c in self._firsts}
        kept = [(0, 0), *(match.span() for match in self._harmless.finditer(text)), (len(text), len(text))]
        return "".join(
            text[start:end] + marked[end:following].translate(table)
            for (start, end), (following, _) in itertools.pairwise(kept)
        )

    def _places(self, text: str, *, at_end: bool) -> set[int]:
        """Where a control token begins, or may begin if another text follows; or where these end."""
        found = {match.end(1) - 1 if at_end else match.start() for match in self._whole.finditer(text)}
        for stop in {len(text.rstrip()), len(text)}:
            begun = [i for i in range(max(0, stop - self._longest), stop) if text[i:stop] in self._prefixes]
            found.update([stop - 1] if begun and at_end else begun)
        return found


@functools.lru_cache(maxsize=32)
def mark_rules(tokens: tuple[str, ...], literals: Literals) -> MarkRules:
    return MarkRules(tokens, literals)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()
