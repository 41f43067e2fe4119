"""Writes the nodes of structural tags as grammars in llguidance's Lark notation.

llguidance matches lexemes first, each as long as possible. So free text is never a separate lexeme if something follows
it: it is one lexeme with the text that ends it, which is then as short as possible (``lazy``). A chain of parts is
therefore written from the left, and free text takes the beginning of what follows out of the chain. Special tokens are
not text, so free text before one needs no such care.
"""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field

from llguidance import regex_to_lark
from llguidance.gbnf_to_lark import gbnf_to_lark

from dovetail_grammars_llguidance.errors import FormatError
from dovetail_grammars_llguidance.messages import shorten_message
from dovetail_grammars_llguidance.nodes import (
    Either,
    Free,
    Json,
    Node,
    Pattern,
    Repeat,
    Rules,
    Sequence,
    Text,
    Token,
    is_open,
    is_regular,
)
from dovetail_grammars_llguidance.schemas import prepare_schema

MAX_LENGTH = 4 << 20
OPENINGS = {"object": "{", "array": "["}
"""Beginnings of JSON values that can be distinguished from free text."""


LARK_WORD = re.compile(r"%json\s*|\"(\\.|[^\"\\\n])*\"|/(?![/*])(\\.|[^/\\\n])+/|(//|#)[^\n]*|/\*.*?\*/", re.DOTALL)
"""The beginning of a JSON schema in Lark, and other tokens that may contain that text: strings, expressions,
comments.
"""


@dataclass(frozen=True)
class Translation:
    """A grammar for llguidance.

    Attributes:
        notices: what was ignored in its schemas.
    """

    grammar: str
    notices: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Chain:
    """A part, and the parts that follow it."""

    node: Node
    then: Chain | None


def _before(nodes: tuple[Node, ...], then: Chain | None) -> Chain | None:
    for node in reversed(nodes):
        then = Chain(node, then)
    return then


def literal(text: str) -> str:
    """A text as a Lark string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")


def to_lark(notation: str) -> Translation:
    """Lark, with its JSON schemas prepared. GBNF, recognised by ``::=``, is translated.

    Raises:
        FormatError: it is not valid GBNF, or a schema in it is not supported.
    """
    if "::=" not in notation:
        return _with_schemas(notation)
    try:
        return Translation(str(gbnf_to_lark(notation)))
    except Exception as error:  # its errors have no class in common
        raise FormatError(shorten_message(f"as GBNF: {error}"), "write GBNF or Lark") from None


def _with_schemas(notation: str) -> Translation:
    parts: list[str] = []
    notices: list[str] = []
    at = 0
    while found := LARK_WORD.search(notation, at):
        parts.append(notation[at : found.end()])
        at = found.end()
        if not found[0].startswith("%json"):
            continue
        try:
            schema, end = json.JSONDecoder().raw_decode(notation, at)
        except (ValueError, RecursionError):
            continue  # llguidance says where
        prepared = prepare_schema(schema)
        notices += prepared.notices
        # As many lines as before, since errors name them.
        parts += [prepared.text, "\n" * notation.count("\n", at, end)]
        at = end
    return Translation("".join(parts) + notation[at:], notices)


def tags_grammar(node: Node) -> Translation:
    """The grammar of a structural tag in llguidance's notation, not compiled yet.

    Raises:
        FormatError: the end of free text cannot be determined, or the grammar is too large.
    """
    writer = _Writer()
    return Translation(writer.write(node), writer.notices)


class _Writer:
    def __init__(self) -> None:
        self._lines = [r"TEXT: /(.|\n)*/"]
        self._length = 0
        self._names: dict[str, str] = {}
        """Names of terminals by their definition, because llguidance only treats equal terminals as one if they have
        one name.
        """
        self._rules: dict[Chain | Json | Rules, str] = {}
        self._todo: deque[tuple[str, Chain]] = deque()
        self._grammars: list[dict[str, str]] = []
        self.notices: list[str] = []

    def write(self, node: Node) -> str:
        self._todo.append(("start", Chain(node, None)))
        while self._todo:
            name, chain = self._todo.popleft()
            self._add(f"{name}: {self._chain(chain)}")
        grammars = [{"lark_grammar": "\n".join(self._lines)}, *self._grammars]
        return json.dumps({"grammars": grammars}, ensure_ascii=False)

    def _add(self, line: str) -> None:
        self._lines.append(line)
        self._length += len(line)
        if self._length > MAX_LENGTH:
            raise FormatError(f"as a grammar it has more than {MAX_LENGTH:,} characters", "make it simpler")

    def _chain(self, chain: Chain | None) -> str:
        """An expression for a part and everything that follows it."""
        parts = []
        while chain is not None:
            node = chain.node
            if isinstance(node, Sequence):
                chain = _before(node.nodes, chain.then)
            elif is_regular(node):
                expression, chain = self._regular(chain)
                parts.append(expression)
            elif is_open(node):
                parts.append(self._open(chain))
                break
            else:
                parts.append(self._closed(node))
                chain = chain.then
        return " ".join(parts) or '""'

    def _then(self, chain: Chain | None) -> str:
        """What follows, as a separate rule, written once even if it is used several times."""
        if chain is None:
            return ""
        if chain not in self._rules:
            self._rules[chain] = f"then_{len(self._rules)}"
            self._todo.append((self._rules[chain], chain))
        return self._rules[chain]

    def _regular(self, chain: Chain | None) -> tuple[str, Chain | None]:
        """Consecutive texts and expressions as one lexeme, because each alone would also match what belongs to the
        next.
        """
        parts = []
        while chain is not None:
            if isinstance(chain.node, Sequence):
                chain = _before(chain.node.nodes, chain.then)
            elif is_regular(chain.node):
                parts.append(_expression(chain.node))
                chain = chain.then
            else:
                break
        return self._terminal(" ".join(parts)), chain

    def _terminal(self, body: str, lazy: bool = False) -> str:
        if body == "TEXT":
            return body
        text = f"[lazy]: {body}" if lazy else f": {body}"
        if text not in self._names:
            self._names[text] = f"until_{len(self._names)}" if lazy else f"LEXEME_{len(self._names)}"
            self._add(self._names[text] + text)
        return self._names[text]

    def _closed(self, node: Node) -> str:
        """An expression for a part that determines its own end."""
        if isinstance(node, Token):
            return f"<[{node.id}]>"
        if isinstance(node, Json | Rules):
            return self._leaf(node)
        if isinstance(node, Either):
            return "(" + " | ".join(self._chain(Chain(part, None)) for part in node.nodes) + ")"
        assert isinstance(node, Repeat), node
        return f"({self._chain(Chain(node.node, None))}){_times(node)}"

    def _leaf(self, node: Json | Rules) -> str:
        if node not in self._rules:
            name = f"part_{len(self._rules)}"
            if isinstance(node, Json):
                self._rules[node] = name
                self._add(f"{name}: %json {node.schema.text}")
                self.notices += node.schema.notices
            else:
                self._rules[node] = f"@{name}"
                rules = to_lark(node.notation)
                self._grammars.append({"name": name, "lark_grammar": rules.grammar})
                self.notices += rules.notices
        return self._rules[node]

    def _open(self, chain: Chain) -> str:
        """An expression for a part that ends where what follows begins, and for what follows."""
        node, then = chain.node, chain.then
        if isinstance(node, Free):
            ways = self._until(node, then)
        elif isinstance(node, Either):
            ways = [
                self._chain(Chain(part, then))
                if is_open(part)
                else f"{self._chain(Chain(part, None))} {self._then(then)}"
                for part in node.nodes
            ]
        else:
            assert isinstance(node, Repeat), node
            if node.max_count != 1:
                raise _endless_error()
            ways = [self._chain(Chain(node.node, then))]
            if node.min_count == 0:
                ways.append(self._then(then) or '""')
        return "(" + " | ".join(ways) + ")"

    def _until(self, free: Free, chain: Chain | None) -> list[str]:
        """The ways in which free text ends and what follows begins."""
        ways: list[str] = []
        seen: set[tuple[str, Chain]] = set()
        todo: list[tuple[str, Chain | None]] = [(_free(free), chain)]
        while todo:
            text, at = todo.pop()
            if at is None:
                ways.append(self._terminal(text))
            elif (text, at) not in seen:
                seen.add((text, at))
                todo += reversed(self._next(text, at, ways))
        return ways

    def _next(self, text: str, at: Chain, ways: list[str]) -> list[tuple[str, Chain | None]]:
        """The chains that can follow free text. Those that begin with something that can end it are written to
        ``ways``.
        """
        node, then = at.node, at.then
        if isinstance(node, Sequence):
            return [(text, _before(node.nodes, then))]
        if isinstance(node, Either):
            return [(text, Chain(part, then)) for part in node.nodes]
        if isinstance(node, Repeat):
            return [(text, first) for first in _unroll(node, at)]
        if isinstance(node, Free):
            more = _free(node)
            return [(text if text == more else f"{text} {more}", then)]
        if isinstance(node, Text):
            # Where a special token follows, the text before it need not be the first of its kind.
            lazy = not (then and isinstance(then.node, Token))
            ways.append(f"{self._terminal(f'{text} {literal(node.text)}', lazy)} {self._then(then)}")
        elif isinstance(node, Token):
            ways.append(f"{self._terminal(text)} <[{node.id}]> {self._then(then)}")
        elif isinstance(node, Json):
            unlike = rf"({text}) & /[^\{_opening(node)}]*/"
            ways.append(f"{self._terminal(unlike)} {self._leaf(node)} {self._then(then)}")
        else:
            raise FormatError(
                f"any text is followed by a {'regex' if isinstance(node, Pattern) else 'grammar'}, so that where it ends cannot be told",
                "put a const_string between them, or a tag around one of them",
            )
        return []


def _expression(node: Node) -> str:
    """A regular part, inside a lexeme."""
    if isinstance(node, Text):
        return literal(node.text)
    if isinstance(node, Pattern):
        return f"/{regex_to_lark(node.regex, use_ascii='')}/"
    if isinstance(node, Sequence):
        return " ".join(map(_expression, node.nodes)) or '""'
    if isinstance(node, Either):
        return f"({' | '.join(map(_expression, node.nodes))})"
    assert isinstance(node, Repeat), node
    return f"({_expression(node.node)}){_times(node)}"


def _times(node: Repeat) -> str:
    max_count = "" if node.max_count is None else node.max_count
    return {(0, 1): "?", (0, None): "*", (1, None): "+"}.get(
        (node.min_count, node.max_count), f"{{{node.min_count},{max_count}}}"
    )


def _unroll(node: Repeat, at: Chain) -> list[Chain | None]:
    """The possible beginnings of a repetition: its part, or what follows if it may be empty."""
    if is_open(node.node) and node.max_count != 1:
        raise _endless_error()
    if node.min_count == 0 and node.max_count is None:
        return [Chain(node.node, at), at.then]
    max_count = None if node.max_count is None else node.max_count - 1
    rest = at.then if max_count == 0 else Chain(Repeat(node.node, max(node.min_count - 1, 0), max_count), at.then)
    return [Chain(node.node, rest), *([at.then] if node.min_count == 0 else [])]


def _endless_error() -> FormatError:
    return FormatError(
        "any text, which ends where something else begins, is the last part of what is repeated",
        "give a tag with any text an end, and put no any_text into star, plus or repeat by itself",
    )


def _free(free: Free) -> str:
    if not free.excludes:
        return "TEXT"
    return f"(TEXT & ~(TEXT ({' | '.join(literal(text) for text in dict.fromkeys(free.excludes))}) TEXT))"


def _opening(node: Json) -> str:
    types = node.schema.types
    if len(types) != 1 or not types <= set(OPENINGS):
        raise FormatError(
            "any text is followed by a JSON schema whose type is neither object nor array, so that where it ends cannot be told",
            "put a const_string between them, or a tag around one of them",
        )
    return OPENINGS[min(types)]
