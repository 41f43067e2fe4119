"""The call format for models that have none, or whose format cannot be constrained by a schema when a call is required:
a JSON list of objects with name and arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.api import RequestError, Tool
from dovetail.api.grammar import STRICT
from dovetail.api.parsing import JsonToolParser
from dovetail.server.tools.schema_references import moved_schema, refers

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


class ForcedCalls(JsonToolParser):
    """``[{"name": …, "arguments": {…}}, …]``."""


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object. In strict mode, unsupported keywords are errors."""
    schema = {**(tool.get("parameters") or NO_ARGUMENTS), "type": "object"}
    return {**schema, STRICT: True} if tool.get("strict") else schema


def calls_schema(tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
    """The schema of :class:`ForcedCalls`: at least one call."""
    calls: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for tool in tools:
        arguments = arguments_schema(tool)
        if refers(arguments):
            # Its references begin at the top of the schema, which is another one here.
            place = f"arguments-{len(definitions)}"
            try:
                definitions[place] = moved_schema(arguments, f"/$defs/{place}")
            except RecursionError:
                raise RequestError(
                    f"the parameters of {tool['name']} nest too deep", "make them flatter", param="tools"
                ) from None
            arguments = {"$ref": f"#/$defs/{place}"}
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": tool["name"]}, "arguments": arguments},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if not parallel:
        schema["maxItems"] = 1
    return {**schema, "$defs": definitions} if definitions else schema
