"""What keeps a parser short: reading text that arrives in pieces, and the shapes that most notations have.

A parser's ``read`` is a generator, written as if the whole output were there: it asks a :class:`Reader` for what comes next, yields events, and
yields None where it has to wait for more. So one program serves streams and whole answers. All of it takes time in proportion to the output's length,
however the output is cut.
"""

from dovetail.api.parsing.calls import JsonCalls, ToolReader
from dovetail.api.parsing.events import Trimmed
from dovetail.api.parsing.jsontext import read_string, read_value
from dovetail.api.parsing.marked import MarkedCalls, NamedCalls, ParameterCalls, read_object
from dovetail.api.parsing.reader import Markers, Reader, Steps, markers
from dovetail.api.parsing.schemas import Types, dumps, json_value, parameter_types, python_value, tool_names
from dovetail.api.parsing.thoughts import ReasoningReader, TaggedReasoning

__all__ = [
    "JsonCalls",
    "MarkedCalls",
    "Markers",
    "NamedCalls",
    "ParameterCalls",
    "Reader",
    "ReasoningReader",
    "Steps",
    "TaggedReasoning",
    "ToolReader",
    "Trimmed",
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
