"""Functionary: the name in a tag, or on a separate line, and a JSON object, as in its chat templates."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallBegin, CallFormat, Content, Tool
from dovetail.api.parsing import EventGenerator, NamedToolParser, StreamingToolParser, markers, read_object

MESSAGE = ">>>"
RECIPIENT = re.compile(r"(?:all|(?P<name>[\w.-]+)(?=\n\{))\n")
LIMIT = 80
"""Maximum number of characters of a recipient. This many are held back at the beginning of an answer."""


class FunctionaryV31(NamedToolParser):
    """Version 3.1. See :class:`dovetail.api.ToolParser`."""

    call_start = "<function="
    header_pattern = re.compile(r"(?P<name>[^\s<>{}=]+)>\s*(?=\{)")
    end_markers = ("</function>",)

    @classmethod
    def call_format(cls, tools: Sequence[Tool]) -> CallFormat:
        return CallFormat(tuple((f"{cls.call_start}{tool['name']}>", "</function>") for tool in tools))


class FunctionaryV32(StreamingToolParser):
    """Version 3.2: messages to functions, and to ``all``. The prompt ends with the marker of the first one.

    It has no call format: calls and answers begin in the same way, so a grammar that constrains calls would allow no
    answer.
    """

    def read(self) -> EventGenerator[None]:
        reader = self.reader
        found = "at the beginning"
        reader.record = []
        while found:
            yield from self._read_recipient(offered=found != MESSAGE)
            found = yield from reader.read_until(markers(MESSAGE), Content)
            reader.record = [found]

    def _read_recipient(self, offered: bool) -> EventGenerator[None]:
        """Read a message's recipient, and the arguments if it is a function.

        Args:
            offered: there is no marker before it, so only the name of an existing tool is a recipient.
        """
        reader = self.reader
        recipient = yield from reader.match(RECIPIENT, LIMIT)
        name = recipient["name"] if recipient else None
        if recipient and not name:
            reader.record = None
        elif not name or (offered and name not in self.names):
            yield from self.recorded_content()
        else:
            reader.record = None
            yield CallBegin(name)
            yield from read_object(reader)
