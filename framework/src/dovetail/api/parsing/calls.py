"""The shapes that most notations of tool calls have."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

from dovetail.api.parsers import CallArguments, CallBegin, Content, Tool, ToolEvent, ToolParser
from dovetail.api.parsing.events import Spacing, merge
from dovetail.api.parsing.jsontext import read_string, read_value
from dovetail.api.parsing.reader import Reader, Steps, discard, markers
from dovetail.api.parsing.schemas import Types, dumps, json_value, parameter_types, tool_names

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
        if (yield from self.reader.peek()) == '"':
            yield from read_string(self.reader, self._hand_out)
        else:
            yield from read_value(self.reader, lambda text: None if text == "null" else self._hand_out(text))

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


class MarkedCalls(ToolReader):
    """Calls of which a marker, a name and a marker again tell where they begin: the arguments follow."""

    sections: ClassVar[tuple[str, ...]] = ()
    """Markers that may stand before a call, or before several."""
    call: ClassVar[str]
    """Marker before each call."""
    header: ClassVar[re.Pattern[str]]
    """What follows it, with the name as group ``name``; see :meth:`Reader.match`."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Markers behind calls and sections, any number of which may stand."""

    def read(self) -> Steps[None]:
        reader = self.reader
        while found := (yield from reader.until(markers(*self.sections, self.call), Content)):
            reader.record = [found]
            while found != self.call:
                yield from reader.space()
                if not (found := (yield from reader.word(markers(*self.sections, self.call)))):
                    break
            if found and (header := (yield from reader.match(self.header))):
                reader.record = None
                yield from self._read_calls(header)
            yield from self.as_it_stands()

    def _read_calls(self, header: re.Match[str] | None) -> Steps[None]:
        """Read the call that stands here, its header being read, and those that follow at once."""
        reader = self.reader
        while header:
            yield CallBegin(header["name"])
            yield from self.read_arguments(header["name"])
            reader.record = []
            yield from reader.space()
            while self.ends and (yield from reader.word(markers(*self.ends))):
                reader.record = []
                yield from reader.space()
            # A marker that the end of the output cut off is none of the answer's text either.
            if not (yield from reader.peek()):
                reader.record = []
                return
            if not (yield from reader.word(markers(self.call))):
                return
            header = yield from reader.match(self.header)

    @abstractmethod
    def read_arguments(self, name: str) -> Steps[None]:
        """Read the arguments of a call, and hand them out."""


class NamedCalls(MarkedCalls):
    """Calls whose arguments are a JSON object behind their name."""

    def read_arguments(self, name: str) -> Steps[None]:
        yield from read_object(self.reader)


def read_object(reader: Reader) -> Steps[None]:
    """Read the arguments of a call that has begun, and hand them out."""
    given = False

    def each(text: str) -> CallArguments:
        nonlocal given
        given = True
        return CallArguments(text)

    yield from reader.space()
    yield from read_value(reader, each)
    if not given and not reader.ended:
        yield CallArguments("{}")


class ParameterCalls(MarkedCalls):
    """Calls whose arguments stand one by one between markers, most of them without quotation marks."""

    parameter: ClassVar[str]
    """Marker before each argument."""
    key: ClassVar[re.Pattern[str]]
    """What stands between it and the value, with the name as group ``key``; see :meth:`Reader.match`."""
    value_end: ClassVar[str]
    """Marker behind each value."""
    call_end: ClassVar[str]
    """Marker behind the arguments."""
    newlines: ClassVar[bool] = False
    """Whether values stand on lines of their own."""

    def read_arguments(self, name: str) -> Steps[None]:
        reader = self.reader
        following = markers(self.parameter, self.call_end)
        before = "{"
        reader.record = []
        while True:
            yield from reader.space()
            found = yield from reader.word(following)
            if found != self.parameter or not (key := (yield from reader.match(self.key))):
                break
            reader.record = None
            yield CallArguments(f"{before}{dumps(key['key'])}: ")
            complete = yield from self._read_value(name, key)
            if not complete:
                return
            before = ", "
            reader.record = []
        if found == self.call_end:
            reader.record = None
        if reader.ended and found != self.call_end:
            reader.drop()
            return
        yield CallArguments("{}" if before == "{" else "}")
        yield from self.as_it_stands()

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        """The types that a value may have."""
        return parameter_types(self.tools, name, key["key"])

    def _read_value(self, name: str, key: re.Match[str]) -> Steps[bool]:
        """Hand out a value; whether it came to its end."""
        types = self.value_types(name, key)
        if self.newlines:
            yield from self.reader.word(markers("\n"))
        if types == {"string"}:
            yield CallArguments('"')
            found = yield from self.reader.until(markers(self.value_end), self._quoted(), awaited=True)
            if found:
                yield CallArguments('"')
            return bool(found)
        pieces: list[str] = []
        found = yield from self.reader.until(markers(self.value_end), pieces.append, awaited=True)
        text = "".join(pieces)
        if self.newlines:
            text = text.removesuffix("\n")
        if found:
            yield CallArguments(json_value(text, types))
        return bool(found)

    def _quoted(self) -> Callable[[str], CallArguments | None]:
        """Makes arguments of the pieces of a string, as JSON has them between quotation marks, without the last line's end."""
        held = ""

        def each(text: str) -> CallArguments | None:
            nonlocal held
            text = held + text
            held = "\n" if self.newlines and text.endswith("\n") else ""
            text = text.removesuffix(held)
            return CallArguments(dumps(text)[1:-1]) if text else None

        return each


def _text(literal: str) -> str:
    """What a JSON string stands for; "" if it is malformed."""
    try:
        return str(json.loads(literal)).encode(errors="replace").decode()
    except ValueError:
        return ""
