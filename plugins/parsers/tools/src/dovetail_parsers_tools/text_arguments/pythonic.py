"""A list of calls in Python's notation: Llama 3.2 and 4, LFM 2, and Olmo 3 without the brackets. Lists of JSON
objects are read too, because Llama 4 was also trained with them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from dovetail.api import CallArguments, CallBegin
from dovetail.api.parsing import EventGenerator, JsonToolParser, dumps, python_value

NAME = re.compile(r"[A-Za-z_][\w.-]*(?=[^\w.-])")
KEYWORD = re.compile(r"\s*([A-Za-z_]\w*)\s*=(?!=)\s*")
PLAIN = re.compile(r"[^\"'()\[\]{},]+")
QUOTED = {quote: re.compile(rf"[^{quote}\\]+") for quote in "\"'"}


class Pythonic(JsonToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    brackets: ClassVar[bool] = True
    """Whether calls are in a list."""

    def read_row(self, in_list: bool, ends: tuple[str, ...]) -> EventGenerator[None]:
        if in_list != self.brackets or (yield from self.reader.peek()) in ("{", ""):
            yield from super().read_row(in_list, ends)
            return
        following = ""
        while True:
            if not (yield from self._read_python_call()):
                yield from self.recorded_content()
                return
            following = yield from self.read_separator()
            if following in ("]", "<", ""):
                break
        yield from self.read_end(in_list, ends)

    def _read_python_call(self) -> EventGenerator[bool]:
        """Read the call at this position. Returns whether it was one."""
        reader = self.reader
        name = yield from reader.match(NAME)
        if not name or (self.bare and name[0] not in self.names) or (yield from reader.skip_space()) != "(":
            return False
        reader.skip()
        reader.record = None
        yield CallBegin(name[0])
        positions = self._parameters(name[0])
        before, closing = "{", ","
        while closing == ",":
            pieces: list[str] = []
            yield from reader.scan(Argument(), pieces.append)
            closing = yield from reader.peek()
            if not closing:
                return True
            text = "".join(pieces).strip()
            if text:
                yield CallArguments(f"{before}{member(text, positions)}")
                before = ", "
            reader.skip()
        yield CallArguments("{}" if before == "{" else "}")
        return True

    def _parameters(self, name: str) -> Iterator[str]:
        """The names of a tool's parameters, for positional arguments."""
        schema: Any = next((tool.get("parameters") for tool in self.tools if tool["name"] == name), None)
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        return iter(properties if isinstance(properties, Mapping) else ())


def member(argument: str, positions: Iterator[str]) -> str:
    """Convert an argument to a member of a JSON object."""
    keyword = KEYWORD.match(argument)
    if keyword:
        key, text = keyword[1], argument[keyword.end() :]
    else:
        key, text = next(positions, ""), argument
    return f"{dumps(key)}: {dumps(python_value(text))}"


class Argument:
    """Finds the end of an argument: before the comma or bracket that is not part of it."""

    def __init__(self) -> None:
        self.depth = 0
        self.quote = ""
        self.escaped = False

    def __call__(self, text: str, at: int) -> tuple[int, bool]:
        while at < len(text):
            plain = (QUOTED[self.quote] if self.quote else PLAIN).match(text, at)
            if self.escaped:
                self.escaped = False
            elif plain:
                at = plain.end()
                continue
            elif self.quote:
                self.escaped = text[at] == "\\"
                if text[at] == self.quote:
                    self.quote = ""
            elif text[at] in "\"'":
                self.quote = text[at]
            elif text[at] in "([{":
                self.depth += 1
            elif not self.depth:
                return at, True
            elif text[at] != ",":
                self.depth -= 1
            at += 1
        return at, False


class Llama4(Pythonic):
    """With the markers of Llama 4."""

    optional_markers = ("<|python_start|>",)
    end_markers = ("<|python_end|>",)


class Lfm2(Pythonic):
    """With the markers of LFM 2."""

    optional_markers = ("<|tool_call_start|>",)
    end_markers = ("<|tool_call_end|>",)


class Olmo3(Pythonic):
    """Olmo 3: a line for each call, in the format of vLLM's parser of the same name."""

    brackets = False
    start_markers = ("<function_calls>",)
    end_markers = ("</function_calls>",)
