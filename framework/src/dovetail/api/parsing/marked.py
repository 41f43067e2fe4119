"""Tool calls that begin with a marker, a name and a second marker."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from dovetail.api.parsers import CallArguments, CallBegin, Content
from dovetail.api.parsing.calls import StreamingToolParser
from dovetail.api.parsing.json_text import read_value
from dovetail.api.parsing.reader import EventGenerator, Reader, markers
from dovetail.api.parsing.schemas import Types, dumps, json_value, parameter_types


class MarkedToolParser(StreamingToolParser):
    """Calls that begin with a marker, a name and a second marker; the arguments follow.

    Attributes:
        section_markers: Optional markers before one or several calls.
        call_start: Marker before each call.
        header_pattern: Pattern of what follows it, with the name as group ``name``; see :meth:`Reader.match`.
        end_markers: Markers after calls and sections; any number of them may follow.
    """

    section_markers: ClassVar[tuple[str, ...]] = ()
    call_start: ClassVar[str]
    header_pattern: ClassVar[re.Pattern[str]]
    end_markers: ClassVar[tuple[str, ...]] = ()

    def read(self) -> EventGenerator[None]:
        reader = self.reader
        while found := (yield from reader.read_until(markers(*self.section_markers, self.call_start), Content)):
            reader.record = [found]
            while found != self.call_start:
                yield from reader.skip_space()
                if not (found := (yield from reader.read_marker(markers(*self.section_markers, self.call_start)))):
                    break
            if found and (header := (yield from reader.match(self.header_pattern))):
                reader.record = None
                yield from self._read_calls(header)
            yield from self.recorded_content()

    def _read_calls(self, header: re.Match[str] | None) -> EventGenerator[None]:
        """Read the call at this position, whose header was read, and those that directly follow."""
        reader = self.reader
        while header:
            yield CallBegin(header["name"])
            yield from self.read_arguments(header["name"])
            reader.record = []
            yield from reader.skip_space()
            while self.end_markers and (yield from reader.read_marker(markers(*self.end_markers))):
                reader.record = []
                yield from reader.skip_space()
            # A marker that is cut off by the end of the output is not content either.
            if not (yield from reader.peek()):
                reader.record = []
                return
            if not (yield from reader.read_marker(markers(self.call_start))):
                return
            header = yield from reader.match(self.header_pattern)

    @abstractmethod
    def read_arguments(self, name: str) -> EventGenerator[None]:
        """Read and emit the arguments of a call."""


class NamedToolParser(MarkedToolParser):
    """Calls whose arguments are a JSON object after the name."""

    def read_arguments(self, name: str) -> EventGenerator[None]:
        yield from read_object(self.reader)


def read_object(reader: Reader) -> EventGenerator[None]:
    """Read and emit the arguments of a call that has begun."""
    given = False

    def emit(text: str) -> CallArguments:
        nonlocal given
        given = True
        return CallArguments(text)

    yield from reader.skip_space()
    yield from read_value(reader, emit)
    if not given and not reader.ended:
        yield CallArguments("{}")


class ParameterToolParser(MarkedToolParser):
    """Calls with arguments one by one between markers, mostly without quotation marks.

    Attributes:
        parameter_start: Marker before each argument.
        key_pattern: Pattern between it and the value, with the name as group ``key``; see :meth:`Reader.match`.
        value_end: Marker after each value.
        call_end: Marker after the arguments.
        values_on_own_lines: Whether values are on separate lines.
    """

    parameter_start: ClassVar[str]
    key_pattern: ClassVar[re.Pattern[str]]
    value_end: ClassVar[str]
    call_end: ClassVar[str]
    values_on_own_lines: ClassVar[bool] = False

    def read_arguments(self, name: str) -> EventGenerator[None]:
        reader = self.reader
        following = markers(self.parameter_start, self.call_end)
        before = "{"
        reader.record = []
        while True:
            yield from reader.skip_space()
            found = yield from reader.read_marker(following)
            if found != self.parameter_start or not (key := (yield from reader.match(self.key_pattern))):
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
            reader.skip_available()
            return
        yield CallArguments("{}" if before == "{" else "}")
        yield from self.recorded_content()

    def value_types(self, name: str, key: re.Match[str]) -> Types:
        """The types that a value may have."""
        return parameter_types(self.tools, name, key["key"])

    def end_of_value(self, key: re.Match[str]) -> str:
        """The marker after a value: :attr:`value_end`. Overridden by formats that have several."""
        return self.value_end

    def _read_value(self, name: str, key: re.Match[str]) -> EventGenerator[bool]:
        """Read and emit a value. Returns whether it was complete."""
        types = self.value_types(name, key)
        ends = markers(self.end_of_value(key))
        if self.values_on_own_lines:
            yield from self.reader.read_marker(markers("\n"))
        if types == {"string"}:
            yield CallArguments('"')
            found = yield from self.reader.read_until(ends, self._string_emitter(), awaited=True)
            if found:
                yield CallArguments('"')
            return bool(found)
        pieces: list[str] = []
        found = yield from self.reader.read_until(ends, pieces.append, awaited=True)
        text = "".join(pieces)
        if self.values_on_own_lines:
            text = text.removesuffix("\n")
        if found:
            yield CallArguments(json_value(text, types))
        return bool(found)

    def _string_emitter(self) -> Callable[[str], CallArguments | None]:
        """Makes arguments from the pieces of a string, as JSON without quotation marks, and without the last line
        end.
        """
        held = ""

        def emit(text: str) -> CallArguments | None:
            nonlocal held
            text = held + text
            held = "\n" if self.values_on_own_lines and text.endswith("\n") else ""
            text = text.removesuffix(held)
            return CallArguments(dumps(text)[1:-1]) if text else None

        return emit
