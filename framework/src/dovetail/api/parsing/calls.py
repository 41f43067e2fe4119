"""Tool calls that are JSON objects with their name and arguments."""

from __future__ import annotations

import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

from dovetail.api.parsers import CallArguments, CallBegin, Content, Tool, ToolEvent, ToolParser
from dovetail.api.parsing.events import SpaceFilter, merge_events
from dovetail.api.parsing.json_text import read_string, read_value
from dovetail.api.parsing.reader import EventGenerator, Reader, discard, markers
from dovetail.api.parsing.schemas import tool_names

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_FENCE = re.compile(r"\w*(?=\W)")
FENCE = "```"


class StreamingToolParser(ToolParser):
    """A parser whose ``read`` is a generator."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        super().__init__(tools)
        self.reader = Reader()
        self.names = tool_names(tools)
        self._spacing = SpaceFilter()
        self._steps = self.read()

    @abstractmethod
    def read(self) -> EventGenerator[None]:
        """Read all of ``self.reader``. Yields events, and None when more text is needed. White space around calls is
        dropped from the events.
        """

    def feed(self, text: str) -> Iterable[ToolEvent]:
        self.reader.push(text)
        return merge_events(self._spacing.filter_events(self._steps))

    def finish(self) -> Iterable[ToolEvent]:
        self.reader.ended = True
        return merge_events([*self._spacing.filter_events(self._steps), *self._spacing.finish()])

    def recorded_content(self) -> Iterable[Content]:
        """Return the recorded text as content, because it is not a call, and stop recording."""
        text, self.reader.record = "".join(self.reader.record or ()), None
        return (Content(text),)


class JsonToolParser(StreamingToolParser):
    """Calls that are JSON objects with their name and arguments: one, several in a row, or a list; after a marker, or
    bare.

    Bare objects are calls only if they name an existing tool and have arguments, or nothing but a name.

    Attributes:
        bare: the current calls have no marker before them.
        start_markers: Markers before calls; empty if calls are bare.
        optional_markers: Optional markers before bare calls.
        end_markers: Markers after calls; one or none of them follows.
        other_keys: Further keys that bare calls may have.
        wrapper_keys: Keys of an object that contains the call itself.
    """

    start_markers: ClassVar[tuple[str, ...]] = ()
    optional_markers: ClassVar[tuple[str, ...]] = ()
    end_markers: ClassVar[tuple[str, ...]] = ()
    name_keys: ClassVar[tuple[str, ...]] = ("name",)
    argument_keys: ClassVar[tuple[str, ...]] = ("arguments", "parameters")
    other_keys: ClassVar[tuple[str, ...]] = ("type", "id")
    wrapper_keys: ClassVar[tuple[str, ...]] = ("function",)

    bare = False

    def read(self) -> EventGenerator[None]:
        starts = markers(*(self.start_markers or ("{", "[", FENCE, *self.optional_markers)))
        while found := (yield from self.reader.read_until(starts, Content)):
            if not self.start_markers:
                self.reader.unread(found)
            self.reader.record = [found] if self.start_markers else []
            yield from self.read_calls()

    def read_calls(self) -> EventGenerator[None]:
        """Read the calls at this position. The marker before them was read and recorded."""
        reader = self.reader
        lead = "" if self.start_markers else (yield from reader.read_marker(markers(FENCE, *self.optional_markers)))
        if lead == FENCE:
            yield from reader.match(_FENCE, 16)
        self.bare = not self.start_markers and lead not in self.optional_markers
        if in_list := (yield from reader.skip_space()) == "[":
            reader.skip()
            yield from reader.skip_space()
        yield from self.read_row(in_list, (FENCE,) if lead == FENCE else self.end_markers)

    def read_row(self, in_list: bool, ends: tuple[str, ...]) -> EventGenerator[None]:
        """Read the call at this position, and those that follow.

        Args:
            in_list: whether they are in a list, whose bracket was read.
            ends: markers after them.
        """
        if not (yield from self.read_call()):
            yield from self.recorded_content()
            return
        while (yield from self.read_separator()) == "{":
            if not (yield from self.read_call()):
                yield from self.recorded_content()
                return
        yield from self.read_end(in_list, ends)

    def read_end(self, in_list: bool, ends: tuple[str, ...]) -> EventGenerator[None]:
        """Read what follows the last call."""
        reader = self.reader
        if in_list and (yield from reader.peek()) == "]":
            reader.skip()
            reader.record = []
            yield from reader.skip_space()
        # A marker that is cut off by the end of the output is not content either.
        if ends and ((yield from reader.read_marker(markers(*ends))) or reader.ended):
            reader.record = []
        yield from self.recorded_content()

    def read_separator(self) -> EventGenerator[str]:
        """Read and record the text between two calls. Returns the first character after it."""
        reader = self.reader
        reader.record = []
        if (yield from reader.skip_space()) in (",", ";"):
            reader.skip()
        return (yield from reader.skip_space())

    def read_call(self) -> EventGenerator[bool]:
        """Read the object at this position. Returns whether it was a call. If it is not a call, the record holds
        what was read.
        """
        if (yield from self.reader.peek()) != "{":
            return False
        self.reader.skip()
        call = _Call(self)
        depth = 1
        while depth:
            if (yield from self.reader.skip_space()) == "}":
                self.reader.skip()
                depth -= 1
            elif not (key := (yield from self._read_key())):
                break
            elif key in self.wrapper_keys and (yield from self.reader.peek()) == "{":
                self.reader.skip()
                depth += 1
                continue
            elif not (yield from self._read_member(key, call)):
                return False
            if depth and (yield from self.reader.skip_space()) == ",":
                self.reader.skip()
        yield from call.end(complete=not depth)
        if depth and call.started and self.reader.ended:
            self.reader.skip_available()
        return call.started

    def _read_key(self) -> EventGenerator[str]:
        """Read a key, its colon, and the white space after it. Returns "" if there is none."""
        name = yield from self._read_name()
        if (yield from self.reader.skip_space()) != ":":
            return ""
        self.reader.skip()
        yield from self.reader.skip_space()
        return name

    def _read_name(self) -> EventGenerator[str]:
        """Read a short string. Returns "" if there is none."""
        found = (yield from self.reader.match(_STRING)) if (yield from self.reader.peek()) == '"' else None
        return _decode_string(found[0]) if found else ""

    def _read_member(self, key: str, call: _Call) -> EventGenerator[bool]:
        """Read the value of a key; False if the object is no call."""
        if key in self.name_keys and call.name is None:
            name = yield from self._read_name()
            if not name or (self.bare and name not in self.names):
                return False
            yield from call.set_name(name, begins=not self.bare)
        elif key in self.argument_keys:
            yield from call.read_arguments()
        elif not self.bare or call.started or key in self.other_keys:
            yield from read_value(self.reader, discard)
        else:
            return False
        return True

    @classmethod
    def json_call_markers(cls, tools: Sequence[Tool], before: str, after: str) -> tuple[tuple[str, str], ...]:
        """The text before and after the arguments of each tool.

        Args:
            before: with ``%s`` for the name, as a JSON string.
        """
        return tuple((before % json.dumps(tool["name"], ensure_ascii=False), after) for tool in tools)


class _Call:
    """The state of a call while its object is read."""

    def __init__(self, parser: JsonToolParser) -> None:
        self.reader = parser.reader
        self.name: str | None = None
        self.started = False
        self._held: list[str] = []
        """Arguments that arrived before the name."""
        self._has_arguments = False

    def set_name(self, name: str, begins: bool) -> EventGenerator[None]:
        self.name = name
        if begins or self._held:
            yield from self._begin()

    def read_arguments(self) -> EventGenerator[None]:
        if self.name is not None and not self.started:
            yield from self._begin()
        first = yield from self.reader.peek()
        if first == '"':
            yield from read_string(self.reader, self._emit)
        else:
            emit = self._emit if first in ("{", "[") else self._emit_scalar
            yield from read_value(self.reader, emit)

    def end(self, complete: bool) -> EventGenerator[None]:
        """The object was read.

        Args:
            complete: whether it was closed.
        """
        if complete and self.name is not None and not self.started:
            yield from self._begin()
        if self.started and not self._has_arguments and (complete or not self.reader.ended):
            yield CallArguments("{}")

    def _begin(self) -> EventGenerator[None]:
        self.started = True
        self.reader.record = None
        assert self.name is not None
        yield CallBegin(self.name)
        for text in self._held:
            yield CallArguments(text)

    def _emit_scalar(self, text: str) -> CallArguments | None:
        return None if text == "null" else self._emit(text)

    def _emit(self, text: str) -> CallArguments | None:
        if not self._has_arguments:
            text = text.lstrip()
        if not text:
            return None
        self._has_arguments = True
        if self.started:
            return CallArguments(text)
        self._held.append(text)
        return None


def _decode_string(literal: str) -> str:
    """The value of a JSON string; "" if it is malformed."""
    try:
        return str(json.loads(literal)).encode(errors="replace").decode()
    except ValueError:
        return ""
