"""Tools, a call of one, and how tests read what the chat route sends."""

from __future__ import annotations

import json
from typing import Any

import httpx2
from server_fakes import FakeEngine

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
KNOWS = "{{ tools }}{{ messages }}"
CALL = '<call>{"name": "weather", "arguments": {"city": "Paris"}}</call>'


def events(response: httpx2.Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def form(engine: FakeEngine) -> dict[str, Any]:
    """The structural tag of the newest request."""
    asked = engine.asked[-1][1].structured_outputs
    assert asked is not None
    assert isinstance(asked.structural_tag, dict)
    assert asked.structural_tag["type"] == "structural_tag"
    return asked.structural_tag["format"]
