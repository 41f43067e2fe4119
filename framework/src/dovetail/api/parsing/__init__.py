"""Helpers that keep parsers short: a reader of text that arrives in pieces, and base classes for the most common
formats.

A parser's ``read`` is a generator, written as if the whole output were there: it asks a :class:`Reader` for what comes
next, yields events, and yields None if it must wait for more text. So one program serves streams and whole outputs.
Parsing takes time proportional to the output's length, however the output is cut.
"""

from dovetail.api.parsing.calls import JsonToolParser, StreamingToolParser
from dovetail.api.parsing.events import TrimmedText
from dovetail.api.parsing.json_text import read_string, read_value
from dovetail.api.parsing.marked import MarkedToolParser, NamedToolParser, ParameterToolParser, read_object
from dovetail.api.parsing.reader import EventGenerator, Markers, Reader, markers
from dovetail.api.parsing.reasoning import StreamingReasoningParser, TaggedReasoningParser
from dovetail.api.parsing.schemas import Types, dumps, json_value, parameter_types, python_value, tool_names

__all__ = [
    "EventGenerator",
    "JsonToolParser",
    "MarkedToolParser",
    "Markers",
    "NamedToolParser",
    "ParameterToolParser",
    "Reader",
    "StreamingReasoningParser",
    "StreamingToolParser",
    "TaggedReasoningParser",
    "TrimmedText",
    "Types",
    "dumps",
    "json_value",
    "markers",
    "parameter_types",
    "python_value",
    "read_object",
    "read_string",
    "read_value",
    "tool_names",
]
