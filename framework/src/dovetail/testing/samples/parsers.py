"""Model outputs and their expected parses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.api import Tool

TOOLS: tuple[Tool, ...] = (
    {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "hourly": {"type": "boolean"}},
            "required": ["city"],
        },
    },
    {
        "name": "search",
        "description": "Search for texts",
        "parameters": {
            "type": "object",
            "properties": {
                "query": {"type": "string"},
                "filter": {"type": "object"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "limit": {"type": ["integer", "null"]},
                "score": {"type": "number"},
            },
        },
    },
    {"name": "now", "description": "What time it is", "parameters": {"type": "object", "properties": {}}},
)
"""Default tools of a sample."""


@dataclass(frozen=True)
class ToolSample:
    """An output, and its expected calls.

    Attributes:
        calls: names and arguments; arguments given as text must match exactly, others as JSON.
        source: where the output comes from.
    """

    text: str
    calls: tuple[tuple[str, Any], ...] = ()
    content: str = ""
    tools: tuple[Tool, ...] = TOOLS
    source: str = ""


@dataclass(frozen=True)
class ReasoningSample:
    """An output, and its expected reasoning.

    Attributes:
        prompt: the end of the prompt.
        source: where the output comes from.
    """

    text: str
    reasoning: str = ""
    content: str = ""
    prompt: str = ""
    source: str = ""


def read_tool_samples(path: Path) -> list[ToolSample]:
    """The samples of a JSON file: a list of objects with the fields of :class:`ToolSample`."""
    return [
        ToolSample(**{**entry, "calls": tuple(map(tuple, entry.get("calls", ())))})
        for entry in json.loads(path.read_text(encoding="utf-8"))
    ]


def read_reasoning_samples(path: Path) -> list[ReasoningSample]:
    """The samples of a JSON file: a list of objects with the fields of :class:`ReasoningSample`."""
    return [ReasoningSample(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
