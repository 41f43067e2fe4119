"""Tool calls that are JSON objects with their name and arguments."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from dovetail.api.parsers import CallArguments, CallBegin, Content, Tool, ToolEvent, ToolParser
from dovetail.api.parsing.events import Spacing, merge
from dovetail.api.parsing.jsontext import read_string, read_value
from dovetail.api.parsing.reader import Reader, Steps, discard, markers
from dovetail.api.parsing.schemas import tool_names

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_FENCE = re.compile(r"\w*(?=\W)")
FENCE = "```"


class ToolReader(ToolParser):
    """A parser whose ``read`` is a generator."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        super().__init__(tools)
        self.reader = Reader()
        self.names = tool_names(tools)
        self._spacing = Spacing()
        self._steps = self.read()

    @abstractmethod
    def read(self) -> Steps[None]:
        """Read ``self.reader`` to its end; yields events, and None where it waits. White space about calls is dropped from what it yields."""

    def feed(self, text: str) -> Iterable[ToolEvent]:
        self.reader.push(text)
        return merge(self._spacing.tidy(self._steps))

    def finish(self) -> Iterable[ToolEvent]:
        self.reader.ended = True
        return merge([*self._spacing.tidy(self._steps), *self._spacing.finish()])

    def as_it_stands(self) -> Iterable[Content]:
        """What was recorded turned out to be no call. The record ends."""
        text, self.reader.record = "".join(self.reader.record or ()), None
        return (Content(text),)


class JsonCalls(ToolReader):
    """Calls that are JSON objects with their name and arguments, alone, in a row or in a list; behind a marker, or bare.

    Bare objects are calls only if they name a tool that there is and have arguments, or nothing but a name.

    Attributes:
        bare: no marker stands before the calls that are being read.
    """

    starts: ClassVar[tuple[str, ...]] = ()
    """Markers before calls; none: they are bare."""
    leads: ClassVar[tuple[str, ...]] = ()
    """Markers that may stand before bare calls."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Markers behind calls, of which one or none may stand."""
    name_keys: ClassVar[tuple[str, ...]] = ("name",)
    argument_keys: ClassVar[tuple[str, ...]] = ("arguments", "parameters")
    other_keys: ClassVar[tuple[str, ...]] = ("type", "id")
    """What else bare calls may have."""
    wrapper_keys: ClassVar[tuple[str, ...]] = ("function",)
    """Keys of an object that is the call itself."""

    bare = False

    def read(self) -> Steps[None]:
        starts = markers(*(self.starts or ("{", "[", FENCE, *self.leads)))
        while found := (yield from self.reader.until(starts, Content)):
            if not self.starts:
                self.reader.back(found)
            self.reader.record = [found] if self.starts else []
            yield from self.read_calls()

    def read_calls(self) -> Steps[None]:
        """Read calls that stand here, the marker before them being read and recorded."""
        reader = self.reader
        lead = "" if self.starts else (yield from reader.word(markers(FENCE, *self.leads)))
        if lead == FENCE:
            yield from reader.match(_FENCE, 16)
        self.bare = not self.starts and lead not in self.leads
        if listed := (yield from reader.space()) == "[":
            reader.skip()
            yield from reader.space()
        yield from self.read_row(listed, (FENCE,) if lead == FENCE else self.ends)

    def read_row(self, listed: bool, ends: tuple[str, ...]) -> Steps[None]:
        """Read the first call that stands here, and those that follow.

        Args:
            listed: whether they are a list, whose bracket is read.
            ends: markers behind them.
        """
        if not (yield from self.read_call()):
            yield from self.as_it_stands()
            return
        while (yield from self.separated()) == "{":
            if not (yield from self.read_call()):
                yield from self.as_it_stands()
                return
        yield from self.read_end(listed, ends)

    def read_end(self, listed: bool, ends: tuple[str, ...]) -> Steps[None]:
        """Read what stands behind the last call."""
        reader = self.reader
        if listed and (yield from reader.peek()) == "]":
            reader.skip()
            reader.record = []
            yield from reader.space()
        # A marker that the end of the output cut off is none of the answer's text either.
        if ends and ((yield from reader.word(markers(*ends))) or reader.ended):
            reader.record = []
        yield from self.as_it_stands()

    def separated(self) -> Steps[str]:
        """Read, and record, what stands between two calls; the first character of what follows."""
        reader = self.reader
        reader.record = []
        if (yield from reader.space()) in (",", ";"):
            reader.skip()
        return (yield from reader.space())

    def read_call(self) -> Steps[bool]:
        """Read an object that stands here; whether it was a call. What was read of one that was none stands in the record."""
        if (yield from self.reader.peek()) != "{":
            return False
        self.reader.skip()
        call = _Call(self)
        depth = 1
        while depth:
            if (yield from self.reader.space()) == "}":
                self.reader.skip()
                depth -= 1
            elif not (key := (yield from self._key())):
                break
            elif key in self.wrapper_keys and (yield from self.reader.peek()) == "{":
                self.reader.skip()
                depth += 1
                continue
            elif not (yield from self._member(key, call)):
                return False
            if depth and (yield from self.reader.space()) == ",":
                self.reader.skip()
        yield from call.end(complete=not depth)
        if depth and call.begun and self.reader.ended:
            self.reader.drop()
        return call.begun

    def _key(self) -> Steps[str]:
        """Read a key and its colon, and the white space behind; "" if none stands here."""
        name = yield from self._name()
        if (yield from self.reader.space()) != ":":
            return ""
        self.reader.skip()
        yield from self.reader.space()
        return name

    def _name(self) -> Steps[str]:
        """Read a short string; "" if none stands here."""
        found = (yield from self.reader.match(_STRING)) if (yield from self.reader.peek()) == '"' else None
        return _text(found[0]) if found else ""

    def _member(self, key: str, call: _Call) -> Steps[bool]:
        """Read the value of a key; False if the object is no call."""
        if key in self.name_keys and call.name is None:
            name = yield from self._name()
            if not name or (self.bare and name not in self.names):
                return False
            yield from call.named(name, begins=not self.bare)
        elif key in self.argument_keys:
            yield from call.read_arguments()
        elif not self.bare or call.begun or key in self.other_keys:
            yield from read_value(self.reader, discard)
        else:
            return False
        return True

    @classmethod
    def json_frame(cls, tools: Sequence[Tool], before: str, after: str) -> tuple[tuple[str, str], ...]:
        """What stands around the arguments of each tool.

        Args:
            before: with ``%s`` for the name, as a JSON string.
        """
        return tuple((before % json.dumps(tool["name"], ensure_ascii=False), after) for tool in tools)


class _Call:
    """A call while its object is read."""

    def __init__(self, parser: JsonCalls) -> None:
        self.reader = parser.reader
        self.name: str | None = None
        self.begun = False
        self._held: list[str] = []
        """Arguments that came before the name."""
        self._given = False

    def named(self, name: str, begins: bool) -> Steps[None]:
        self.name = name
        if begins or self._held:
            yield from self._begin()

    def read_arguments(self) -> Steps[None]:
        if self.name is not None and not self.begun:
            yield from self._begin()
        first = yield from self.reader.peek()
        if first == '"':
            yield from read_string(self.reader, self._hand_out)
        else:
            each = self._hand_out if first in ("{", "[") else self._hand_out_scalar
            yield from read_value(self.reader, each)

    def end(self, complete: bool) -> Steps[None]:
        """The object is read.

        Args:
            complete: it was closed.
        """
        if complete and self.name is not None and not self.begun:
            yield from self._begin()
        if self.begun and not self._given and (complete or not self.reader.ended):
            yield CallArguments("{}")

    def _begin(self) -> Steps[None]:
        self.begun = True
        self.reader.record = None
        assert self.name is not None
        yield CallBegin(self.name)
        for text in self._held:
            yield CallArguments(text)

    def _hand_out_scalar(self, text: str) -> CallArguments | None:
        return None if text == "null" else self._hand_out(text)

    def _hand_out(self, text: str) -> CallArguments | None:
        if not self._given:
            text = text.lstrip()
        if not text:
            return None
        self._given = True
        if self.begun:
            return CallArguments(text)
        self._held.append(text)
        return None


def _text(literal: str) -> str:
    """What a JSON string stands for; "" if it is malformed."""
    try:
        return str(json.loads(literal)).encode(errors="replace").decode()
    except ValueError:
        return ""
