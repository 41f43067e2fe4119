"""Which characters of a message can be a control token's, given the texts that a chat template has itself."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jinja2 import nodes

from dovetail.engine.text.rendered_prompt import control_pattern

LONGEST_REST = 256
"""Number of characters at a text's beginning that are compared with the rest of a control token."""


@dataclass(frozen=True, eq=False)
class Literals:
    """The texts in a template's source.

    Attributes:
        constants: strings in expressions, with which the template may compare what messages say.
        written: all texts that it may write, constants included.
        names: names of fields that it reads.
    """

    constants: frozenset[str]
    written: frozenset[str]
    names: frozenset[str]


def read_literals(tree: nodes.Template) -> Literals:
    """The texts of a parsed template."""
    constants = frozenset(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))
    written = frozenset(node.data for node in tree.find_all(nodes.TemplateData))
    names = frozenset(node.attr for node in tree.find_all(nodes.Getattr))
    return Literals(constants, written | constants, names)


class MarkRules:
    """Which characters of the inputs are marked, for one template and one vocabulary.

    Levels, from the one that marks most:

    0. every character that a control token begins with, except where the template has a constant that is none, such as
       ``</think>``;
    1. the beginnings of control tokens, and of what may become one with the next text;
    2. those, except at the beginning of a text;
    3. those, except in constants of the template;
    4. both exceptions;
    5. nothing.

    Levels 0 and 1 also mark all of a text that may continue a control token which the template begins, such as
    ``<{{ name }}>``.
    """

    LEVELS, STARTS = 6, 1

    def __init__(self, tokens: tuple[str, ...], literals: Literals) -> None:
        self.tokens, self.literals = tokens, literals
        self._firsts = frozenset(t[0] for t in tokens if not t[0].isalnum() and not t[0].isspace())
        self._first = re.compile(f"[{''.join(map(re.escape, sorted(self._firsts)))}]" if self._firsts else r"(?!)")
        self._whole = re.compile(f"(?={control_pattern(tokens).pattern})", re.DOTALL)
        self._prefixes = {t[:n] for t in tokens if t[0] in self._firsts for n in range(1, len(t))}
        self._longest = max(map(len, tokens), default=0)
        constants = {c for c in literals.constants if self._first.search(c)}
        risky = {c for c in constants if self._can_begin(c)}
        self._risky, self._harmless = (control_pattern(tuple(sorted(each))) for each in (risky, constants - risky))
        ends = {t[-n:] for t in literals.written for n in range(1, min(len(t), self._longest) + 1)} & self._prefixes
        self._rests = {_letters(t[n:]) for t in tokens for n in range(1, len(t)) if t[:n] in ends} - {""}
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
        if not self._rests or is_role or text in self.literals.constants or text in self.literals.names:
            return False
        letters = _letters(text[:LONGEST_REST])
        return letters in self._rest_prefixes or any(
            letters[:n] in self._rests for n in range(1, min(len(letters), self._longest_rest) + 1)
        )

    def characters(self, texts: Iterable[tuple[str, bool]]) -> set[str]:
        """All characters that may be marked in these texts, each of which comes with whether it is a role."""
        found = {token[0] for token in self.tokens}
        for text, is_role in texts:
            if self._continues(text, is_role):
                found.update(text)
        return found

    def mark(self, text: str, is_role: bool, level: int, marks: Mapping[str, str]) -> str:
        """The text with marks.

        Args:
            marks: character → mark.
        """
        if level >= self.LEVELS - 1:
            return text
        if level <= 1 and self._continues(text, is_role):
            return "".join(marks[c] for c in text)
        places = self._starts(text)
        if level in (2, 4):
            places -= {len(text) - len(text.lstrip())}
        if level in (3, 4):
            places -= {i for match in self._risky.finditer(text) for i in range(*match.span())}
        pieces = [text[i] if i not in places else marks[text[i]] for i in range(len(text))] if places else [text]
        marked = "".join(pieces)
        if level:
            return marked
        table = {ord(c): marks[c] for c in self._firsts}
        kept = [(0, 0), *(match.span() for match in self._harmless.finditer(text)), (len(text), len(text))]
        return "".join(
            text[start:end] + marked[end:following].translate(table)
            for (start, end), (following, _) in itertools.pairwise(kept)
        )

    def _starts(self, text: str) -> set[int]:
        """Where a control token begins, or may begin if another text follows."""
        found = {match.start() for match in self._whole.finditer(text)}
        for stop in {len(text.rstrip()), len(text)}:
            found |= {i for i in range(max(0, stop - self._longest), stop) if text[i:stop] in self._prefixes}
        return found


@functools.lru_cache(maxsize=32)
def mark_rules(tokens: tuple[str, ...], literals: Literals) -> MarkRules:
    return MarkRules(tokens, literals)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()
