"""Gemma: a name, and arguments in its own notation, with tokens for quotation marks and unquoted keys.

Gemma 4's format is in its chat template. FunctionGemma's is in vLLM's parser, which only reads texts; other values are
read here as Gemma 4 writes them.
"""

from __future__ import annotations

import re
from typing import ClassVar

from dovetail.api import CallArguments
from dovetail.api.parsing import EventGenerator, MarkedToolParser, Types, dumps, json_value, markers, parameter_types
from dovetail_parsers_tools.text_arguments.strings import json_string_piece

KEY = re.compile(r"(?P<key>[^:,<>{}\[\]]+):")
BARE = re.compile(r"[^,<{}\[\]]*(?=[,<}\]])")
CLOSING = {"{": "}", "[": "]"}


class Gemma4(MarkedToolParser):
    """Gemma 4. See :class:`dovetail.api.ToolParser`."""

    quote: ClassVar[str] = '<|"|>'
    call_start = "<|tool_call>"
    header_pattern = re.compile(r"\s*(?:call)?:\s*(?P<name>[\w.-]+)\s*(?=\{)")
    end_markers = ("<tool_call|>",)

    def read_arguments(self, name: str) -> EventGenerator[None]:
        reader = self.reader
        reader.skip()
        yield CallArguments("{")
        self.closing = ["}"]
        """The closing characters of the open values."""
        self.before = ""
        """The separator before the next member."""
        while self.closing:
            following = yield from reader.skip_space()
            if following == self.closing[-1]:
                reader.skip()
                yield CallArguments(self.closing.pop())
                self.before = ", "
            elif following == ",":
                reader.skip()
            elif not (yield from self._read_member(name)):
                break
        if self.closing and reader.ended:
            reader.skip_available()
        elif self.closing:
            yield CallArguments("".join(reversed(self.closing)))

    def _read_member(self, name: str) -> EventGenerator[bool]:
        """Read a member of an object or a list. Returns whether there was one."""
        types: Types = frozenset()
        before = self.before
        mark = yield from self._mark()
        if self.closing[-1] == "}":
            key = yield from self._read_key(mark)
            if key is None:
                return False
            if len(self.closing) == 1:
                types = parameter_types(self.tools, name, key)
            before += f"{dumps(key)}: "
            yield from self.reader.skip_space()
            mark = yield from self._mark()
        self.before = ", "
        following = yield from self.reader.peek()
        if mark == self.quote:
            return (yield from self._read_quoted(before, types))
        if not mark and following in CLOSING:
            self.reader.skip()
            yield CallArguments(before + following)
            self.closing.append(CLOSING[following])
            self.before = ""
            return True
        bare = None if mark else (yield from self.reader.match(BARE))
        if not bare or (not bare[0] and self.closing[-1] == "]"):
            return False
        types = types if types == {"string"} else frozenset()
        yield CallArguments(before + json_value(bare[0].strip(), types))
        return True

    def _mark(self) -> EventGenerator[str]:
        """Read a quotation mark, or the end of an unclosed call. Returns "" if there is neither."""
        return (yield from self.reader.read_marker(markers(self.quote, *self.end_markers)))

    def _read_key(self, mark: str) -> EventGenerator[str | None]:
        """Read a key, possibly quoted, and its colon. Returns None if there is none."""
        if mark != self.quote:
            key = None if mark else (yield from self.reader.match(KEY))
            return key["key"].strip() if key else None
        pieces: list[str] = []
        if not (yield from self.reader.read_until(markers(self.quote), pieces.append, awaited=True)):
            return None
        if (yield from self.reader.skip_space()) != ":":
            return None
        self.reader.skip()
        return "".join(pieces)

    def _read_quoted(self, before: str, types: Types) -> EventGenerator[bool]:
        """Emit a text whose opening quotation mark was read. Returns whether it was complete."""
        if types and "string" not in types:
            pieces: list[str] = []
            found = yield from self.reader.read_until(markers(self.quote), pieces.append, awaited=True)
            if found:
                yield CallArguments(before + json_value("".join(pieces), types))
            return bool(found)
        yield CallArguments(f'{before}"')
        found = yield from self.reader.read_until(markers(self.quote), json_string_piece, awaited=True)
        if found:
            yield CallArguments('"')
        return bool(found)


class FunctionGemma(Gemma4):
    """FunctionGemma."""

    quote = "<escape>"
    call_start = "<start_function_call>"
    end_markers = ("<end_function_call>",)
