"""MiniMax M3: tags with the names of arguments, nested for objects and lists, each after a token of its own.

The format is that of its chat template; the schemas give the types of the values.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dovetail.api import CallArguments
from dovetail.api.parsing import EventGenerator, MarkedToolParser, Types, dumps, json_value, markers, parameter_types
from dovetail_parsers_tools.text_arguments.strings import json_string_piece

MARK = "]<]minimax[>["
TAG = re.compile(r"<(?P<end>/?)(?P<name>[^<>/][^<>]*)>")
ITEM = "item"
EMPTY = {"array": "[]", "object": "{}"}
DEPTH = 8
"""Maximum nesting of schemas that are searched for a member."""


@dataclass
class Element:
    """An open object or list: its tag, its schema, its closing text, and the separator before its next member."""

    tag: str
    schema: Any
    closing: str
    before: str = ""


class MiniMaxM3(MarkedToolParser):
    """See :class:`dovetail.api.ToolParser`."""

    section_markers = (f"{MARK}<tool_call>",)
    call_start = f'{MARK}<invoke name="'
    header_pattern = re.compile(r'(?P<name>[^"<>]+)">')
    end_markers = (f"{MARK}</tool_call>",)

    def read_arguments(self, name: str) -> EventGenerator[None]:
        self.schema = next((tool.get("parameters") for tool in self.tools if tool["name"] == name), None)
        self.open = [Element("invoke", self.schema, "}")]
        yield CallArguments("{")
        tag: re.Match[str] | None = None
        while self.open:
            tag = tag or (yield from self._read_tag())
            if not tag:
                break
            if not tag["end"]:
                tag = yield from self._read_value(tag["name"])
            elif tag["name"] == self.open[-1].tag:
                yield CallArguments(self.open.pop().closing)
                tag = None
            else:
                break
        if self.open and self.reader.ended:
            self.reader.skip_available()
        elif self.open:
            yield CallArguments("".join(element.closing for element in reversed(self.open)))

    def _read_tag(self) -> EventGenerator[re.Match[str] | None]:
        """Read a tag inside an object or a list. Returns None if there is none."""
        yield from self.reader.skip_space()
        if not (yield from self.reader.read_marker(markers(MARK))):
            return None
        return (yield from self.reader.match(TAG))

    def _read_value(self, tag: str) -> EventGenerator[re.Match[str] | None]:
        """Read what follows a tag: the whole value, unless it is an object or a list. Returns the next tag if it is
        one, or is malformed.
        """
        reader, parent = self.reader, self.open[-1]
        yield CallArguments(parent.before + (f"{dumps(tag)}: " if parent.closing == "}" else ""))
        parent.before = ", "
        schema = member_schema(parent.schema, self.schema, tag if parent.closing == "}" else None)
        types = schema_types(schema, self.schema)
        pieces: list[str] = []
        if types == {"string"}:
            yield CallArguments('"')
        emit = json_string_piece if types == {"string"} else pieces.append
        if not (yield from reader.read_until(markers(MARK), emit, awaited=True)):
            return None
        following = yield from reader.match(TAG)
        closes = following is not None and bool(following["end"]) and following["name"] == tag
        text = "".join(pieces)
        if types == {"string"}:
            yield CallArguments('"')
        elif following and not following["end"] and not text.strip():
            listed = following["name"] == ITEM and ("array" in types or not types)
            self.open.append(Element(tag, schema, "]" if listed else "}"))
            yield CallArguments("[" if listed else "{")
        elif following or not reader.ended:
            kinds = [EMPTY[kind] for kind in EMPTY if kind in types and not text]
            yield CallArguments(kinds[0] if kinds else json_value(text, types))
        return None if closes else following


def schema_types(schema: Any, root: Any) -> Types:
    """The types of a value, given a schema inside another one."""
    whole = {**(root if isinstance(root, Mapping) else {}), "properties": {"": schema}}
    return parameter_types([{"name": "", "parameters": whole}], "", "")


def member_schema(schema: Any, root: Any, member: str | None, depth: int = DEPTH) -> Any:
    """The schema of a member of an object, or of a list (``member`` is None); None if there is none."""
    if not isinstance(schema, Mapping) or not depth:
        return None
    properties = schema.get("properties")
    if member is None:
        found = schema.get("items")
    elif isinstance(properties, Mapping) and member in properties:
        found = properties[member]
    else:
        found = schema.get("additionalProperties")
    if isinstance(found, Mapping):
        return found
    branches = (schema.get(word) for word in ("anyOf", "oneOf", "allOf"))
    others = [other for branch in branches if isinstance(branch, list) for other in branch]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for key in reference[2:].split("/"):
            target = target.get(key) if isinstance(target, Mapping) else None
        others.append(target)
    return next(
        (found for other in others if (found := member_schema(other, root, member, depth - 1)) is not None), None
    )
