"""Functionary: the name in a tag, or on a line of its own, and a JSON object, as its chat templates say."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dovetail.api import CallBegin, CallFrame, Content, Tool
from dovetail.api.parsing import NamedCalls, Steps, ToolReader, markers, read_object

MESSAGE = ">>>"
RECIPIENT = re.compile(r"(?:all|(?P<name>[\w.-]+)(?=\n\{))\n")
LIMIT = 80
"""Characters of a recipient at most, and so of an answer's beginning that are held back."""


class FunctionaryV31(NamedCalls):
    """Version 3.1. See :class:`dovetail.api.ToolParser`."""

    call = "<function="
    header = re.compile(r"(?P<name>[^\s<>{}=]+)>\s*(?=\{)")
    ends = ("</function>",)

    @classmethod
    def frame(cls, tools: Sequence[Tool]) -> CallFrame:
        return CallFrame(tuple((f"{cls.call}{tool['name']}>", "</function>") for tool in tools))


class FunctionaryV32(ToolReader):
    """Version 3.2: messages to functions, and to ``all``. The prompt ends with the first one's mark.

    No frame: calls and answers begin alike, so that a grammar that holds calls to their schemas would leave no way to an answer.
    """

    def read(self) -> Steps[None]:
        reader = self.reader
        found = "at the beginning"
        reader.record = []
        while found:
            yield from self._read_recipient(offered=found != MESSAGE)
            found = yield from reader.until(markers(MESSAGE), Content)
            reader.record = [found]

    def _read_recipient(self, offered: bool) -> Steps[None]:
        """Read to whom a message goes, and the arguments if it is a function.

        Args:
            offered: no mark stands before it, so that only a tool that there is may be one.
        """
        reader = self.reader
        recipient = yield from reader.match(RECIPIENT, LIMIT)
        name = recipient["name"] if recipient else None
        if recipient and not name:
            reader.record = None
        elif not name or (offered and name not in self.names):
            yield from self.as_it_stands()
        else:
            reader.record = None
            yield CallBegin(name)
            yield from read_object(reader)
