"""The nodes that structural tags are translated to: texts, free text, and parts that llguidance reads itself; in
sequence, as alternatives, and repeated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dovetail.api import GrammarKind
from dovetail_grammars_llguidance import formats
from dovetail_grammars_llguidance.errors import MAX_BYTES, FormatError
from dovetail_grammars_llguidance.schemas import Prepared, prepare_schema

MAX_DEPTH = 32
MAX_NODES = 1024


class Piece(NamedTuple):
    """A piece of a text; with the token id if it is a special token."""

    text: str
    token: int | None = None


Split = Callable[[str], list[Piece]]
"""A function that splits a text at its special tokens."""


class Node:
    """Base class of the nodes. Nodes are compared by identity."""


@dataclass(frozen=True, eq=False)
class Text(Node):
    text: str


@dataclass(frozen=True, eq=False)
class Token(Node):
    id: int


@dataclass(frozen=True, eq=False)
class Free(Node):
    """Text without the excluded ones, as short as what follows allows."""

    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Pattern(Node):
    regex: str


@dataclass(frozen=True, eq=False)
class Json(Node):
    schema: Prepared


@dataclass(frozen=True, eq=False)
class Rules(Node):
    """A separate grammar."""

    notation: str


@dataclass(frozen=True, eq=False)
class Sequence(Node):
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Either(Node):
    nodes: tuple[Node, ...]


@dataclass(frozen=True, eq=False)
class Repeat(Node):
    node: Node
    min_count: int
    max_count: int | None


def to_node(form: formats.Format, split: Split) -> Node:
    """Translate a format to a node.

    Raises:
        FormatError: a tag does not begin with a trigger, or the format is too large.
    """
    return _Translation(split).node(form, 0)


def is_open(node: Node) -> bool:
    """Whether the node may end with free text, so that it ends where what follows begins."""
    if isinstance(node, Either):
        return any(is_open(part) for part in node.nodes)
    if isinstance(node, Repeat):
        return is_open(node.node)
    if isinstance(node, Sequence):
        for part in reversed(node.nodes):
            if is_open(part):
                return True
            if not _may_be_empty(part):
                return False
    return isinstance(node, Free)


def is_regular(node: Node) -> bool:
    """Whether a finite automaton can match it, so that it can be one lexeme."""
    if isinstance(node, Either | Sequence):
        return all(map(is_regular, node.nodes))
    if isinstance(node, Repeat):
        return is_regular(node.node)
    return isinstance(node, Text | Pattern)


def _may_be_empty(node: Node) -> bool:
    if isinstance(node, Either):
        return any(_may_be_empty(part) for part in node.nodes)
    if isinstance(node, Sequence):
        return all(_may_be_empty(part) for part in node.nodes)
    if isinstance(node, Repeat):
        return node.min_count == 0 or _may_be_empty(node.node)
    return isinstance(node, Free)


class _Translation:
    def __init__(self, split: Split) -> None:
        self._split = split
        self._count = 0
        self._bytes: Counter[GrammarKind] = Counter()

    def node(self, form: formats.Format, depth: int) -> Node:
        self._count += 1
        if self._count > MAX_NODES:
            raise FormatError(f"it has more than {MAX_NODES:,} formats", "send a smaller one")
        if depth > MAX_DEPTH:
            raise FormatError(f"its formats nest more than {MAX_DEPTH} deep", "make it flatter")
        match form:
            case formats.ConstString():
                return self._text(form.value)
            case formats.JsonSchema():
                return Json(prepare_schema(form.json_schema))
            case formats.Regex():
                self._measure("regex", form.pattern)
                return Pattern(form.pattern) if form.pattern else Sequence(())
            case formats.GrammarText():
                self._measure("grammar", form.grammar)
                return Rules(form.grammar)
            case formats.AnyText():
                return Free(tuple(form.excludes))
            case formats.Sequence():
                return Sequence(tuple(self.node(part, depth + 1) for part in form.elements))
            case formats.Either():
                return Either(tuple(self.node(part, depth + 1) for part in form.elements))
            case formats.Optional():
                return Repeat(self.node(form.content, depth + 1), 0, 1)
            case formats.Star():
                return Repeat(self.node(form.content, depth + 1), 0, None)
            case formats.Plus():
                return Repeat(self.node(form.content, depth + 1), 1, None)
            case formats.Repeat():
                return self._repeat(form, depth)
            case formats.Tag():
                return self._tag(form, self._text(form.begin), depth)
            case formats.TriggeredTags():
                return self._triggered(form, depth)
            case formats.TagsWithSeparator():
                return self._separated(form, depth)

    def _measure(self, kind: GrammarKind, text: str) -> None:
        self._bytes[kind] += len(text.encode())
        if self._bytes[kind] > MAX_BYTES[kind]:
            raise FormatError(
                f"each {kind} in it together have more than {MAX_BYTES[kind]:,} bytes", "send smaller ones"
            )

    def _text(self, text: str) -> Sequence:
        return _text_nodes(self._split(text))

    def _repeat(self, form: formats.Repeat, depth: int) -> Node:
        max_count = None if form.max == -1 else form.max
        if max_count is not None and max_count < form.min:
            raise FormatError(
                f"a repeat has min {form.min} and max {max_count}", "give a max that is not less than min, or -1"
            )
        node = self.node(form.content, depth + 1)
        return Repeat(node, form.min, max_count) if max_count != 0 else Sequence(())

    def _tag(self, form: formats.Tag, begin: Node, depth: int) -> Node:
        content = self.node(form.content, depth + 1)
        ends = [form.end] if isinstance(form.end, str) else form.end
        return Sequence((begin, content, Either(tuple(map(self._text, dict.fromkeys(ends))))))

    def _triggered(self, form: formats.TriggeredTags, depth: int) -> Node:
        tags = Either(tuple(self._tag(tag, self._triggered_begin(form, tag), depth) for tag in form.tags))
        free = Free(tuple(form.excludes))
        if form.stop_after_first:
            return tags if form.at_least_one else Either((free, Sequence((free, tags))))
        more = (Repeat(Sequence((free, tags)), 0, None), free)
        return Sequence((tags, *more) if form.at_least_one else more)

    def _triggered_begin(self, form: formats.TriggeredTags, tag: formats.Tag) -> Node:
        """Split the ``begin`` of a tag: the free text before it ends with the trigger, and the rest must follow."""
        # Of several triggers the shortest, since free text ends at the first that is complete.
        trigger = min((trigger for trigger in form.triggers if tag.begin.startswith(trigger)), key=len, default=None)
        if trigger is None:
            raise FormatError(
                f"a tag begins with {tag.begin[:40]!r}, which begins with none of the triggers",
                "give it a trigger that it begins with",
            )
        return Sequence(tuple(_text_nodes(part) for part in _split_pieces(self._split(tag.begin), len(trigger))))

    def _separated(self, form: formats.TagsWithSeparator, depth: int) -> Node:
        tags = Either(tuple(self._tag(tag, self._text(tag.begin), depth) for tag in form.tags))
        more = Repeat(Sequence((self._text(form.separator), tags)), 0, None)
        some = tags if form.stop_after_first else Sequence((tags, more))
        return some if form.at_least_one else Repeat(some, 0, 1)


def _text_nodes(pieces: list[Piece]) -> Sequence:
    return Sequence(tuple(Text(text) if token is None else Token(token) for text, token in pieces if text))


def _split_pieces(pieces: list[Piece], length: int) -> tuple[list[Piece], list[Piece]]:
    """Split pieces after a number of characters; special tokens are not cut."""
    head, rest = [], []
    for text, token in pieces:
        taken = max(length, 0) if token is None or length <= 0 else len(text)
        head.append(Piece(text[:taken], token))
        rest.append(Piece(text[taken:], token))
        length -= len(text)
    return head, rest
