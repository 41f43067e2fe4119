"""Calls of models without a notation of their own, or with one that cannot be held to a schema where a call is forced: a JSON list of objects with name and
arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dovetail.api import Tool
from dovetail.api.parsing import JsonToolParser

NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}


class ForcedCalls(JsonToolParser):
    """``[{"name": …, "arguments": {…}}, …]``."""


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are an object always."""
    return {"type": "object", **(tool.get("parameters") or NO_ARGUMENTS)}


def calls_schema(tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
    """The schema of :class:`ForcedCalls`: at least one call."""
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool["name"]}, "arguments": arguments_schema(tool)},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema: dict[str, Any] = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    return schema if parallel else {**schema, "maxItems": 1}
