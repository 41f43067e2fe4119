"""Tool calls of which a marker, a name and a marker again tell where they begin."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

from dovetail.api.parsers import CallArguments, CallBegin, Content
from dovetail.api.parsing.calls import ToolReader
from dovetail.api.parsing.jsontext import read_value
from dovetail.api.parsing.reader import Reader, Steps, markers
from dovetail.api.parsing.schemas import Types, dumps, json_value, parameter_types


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

    def end_of_value(self, key: re.Match[str]) -> str:
        """The marker behind a value, for notations that have several: :attr:`value_end`."""
        return self.value_end

    def _read_value(self, name: str, key: re.Match[str]) -> Steps[bool]:
        """Hand out a value; whether it came to its end."""
        types = self.value_types(name, key)
        ends = markers(self.end_of_value(key))
        if self.newlines:
            yield from self.reader.word(markers("\n"))
        if types == {"string"}:
            yield CallArguments('"')
            found = yield from self.reader.until(ends, self._quoted(), awaited=True)
            if found:
                yield CallArguments('"')
            return bool(found)
        pieces: list[str] = []
        found = yield from self.reader.until(ends, pieces.append, awaited=True)
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
