"""Builds the format that the whole output must follow: reasoning, then required or schema-bound tool calls, or the
requested response format.

The format is a structural tag in the notation of xgrammar and vLLM: ``{"type": "structural_tag", "format": …}``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dovetail.api import CallFormat, RequestError, Tool
from dovetail.engine.request.params import StructuredOutputs
from dovetail.server.tools.forced_calls import ForcedCalls, arguments_schema, calls_schema
from dovetail.server.tools.output_parsing import OutputParsing

Format = dict[str, Any]


def build_output_format(requested: StructuredOutputs | None, parsing: OutputParsing) -> StructuredOutputs | None:
    """Build the format of an output.

    Args:
        requested: the requested response format.
        parsing: how the output is parsed.

    Raises:
        RequestError: the requested format must be part of another one, and is not JSON.
    """
    calls = _calls_format(parsing)
    if calls is None and requested is None:
        return None
    thoughts = parsing.reasoning(parsing.prompt).reasoning_markers() if parsing.reasoning else None
    if calls is None and thoughts is None:
        return requested
    if requested is None:
        wanted = calls
    elif calls is None or parsing.selection.forced:
        wanted = calls or _answer_format(requested)
    else:
        wanted = {"type": "or", "elements": [calls, _answer_format(requested)]}
    assert wanted is not None
    if thoughts is not None:
        begin, end = thoughts
        tag = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": end}
        wanted = {"type": "sequence", "elements": [tag, wanted]}
    return StructuredOutputs(structural_tag={"type": "structural_tag", "format": wanted})


def _calls_format(parsing: OutputParsing) -> Format | None:
    """The format of calls, if a call is required or calls must follow their schemas."""
    selection = parsing.selection
    if parsing.tools is None or not (selection.forced or selection.strict):
        return None
    call_format = parsing.tools.call_format(selection.callable)
    if selection.forced:
        if call_format is None:
            assert parsing.tools is ForcedCalls
            return {"type": "json_schema", "json_schema": calls_schema(selection.callable, parallel=selection.parallel)}
        return _required_calls_format(call_format, selection.callable, parallel=selection.parallel)
    return (
        None
        if call_format is None
        else _optional_calls_format(call_format, selection.callable, parallel=selection.parallel)
    )


def _required_calls_format(call_format: CallFormat, tools: Sequence[Tool], *, parallel: bool) -> Format:
    calls = {
        "type": "tags_with_separator",
        "tags": [_tag(begin, tool, end) for (begin, end), tool in zip(call_format.calls, tools, strict=True)],
        "separator": call_format.separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }
    outer = [
        {"type": "const_string", "value": text} if text else None for text in (call_format.before, call_format.after)
    ]
    elements = [part for part in (outer[0], calls, outer[1]) if part is not None]
    return {"type": "sequence", "elements": elements} if len(elements) > 1 else calls


def _optional_calls_format(call_format: CallFormat, tools: Sequence[Tool], *, parallel: bool) -> Format:
    """Free text. Once the beginning of a call was written, the rest must be a valid call."""
    begins = [call_format.before + begin for begin, _ in call_format.calls]
    first, last = min(begins), max(begins)  # what these share, all share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return {
        "type": "triggered_tags",
        "triggers": [first[:same]],
        "tags": [
            _tag(begin, tool, end + call_format.after)
            for begin, (_, end), tool in zip(begins, call_format.calls, tools, strict=True)
        ],
        "at_least_one": False,
        "stop_after_first": not parallel,
    }


def _tag(begin: str, tool: Tool, end: str) -> Format:
    return {
        "type": "tag",
        "begin": begin,
        "content": {"type": "json_schema", "json_schema": arguments_schema(tool)},
        "end": end,
    }


def _answer_format(requested: StructuredOutputs) -> Format:
    """The format of the answer, as part of another format."""
    if requested.json is not None:
        schema = (
            json.loads(requested.json)
            if requested.json in ("true", "false")
            else _read_json_object(requested.json, "json")
        )
        return {"type": "json_schema", "json_schema": schema}
    if requested.json_object:
        return {"type": "json_schema", "json_schema": {"type": "object"}}
    if requested.regex is not None:
        return {"type": "regex", "pattern": requested.regex}
    if requested.choice is not None:
        return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in requested.choice]}
    if requested.grammar is not None:
        return {"type": "grammar", "grammar": requested.grammar}
    tag = _read_json_object(requested.structural_tag, "structural_tag")
    return tag["format"] if "format" in tag else {"type": "triggered_tags", **_convert_legacy_tag(tag)}


def _read_json_object(value: str | Format | None, name: str) -> Format:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RequestError(f"structured_outputs.{name} is not JSON: {error}", param="structured_outputs") from None
    if not isinstance(value, dict):
        raise RequestError(f"structured_outputs.{name}: wanted a JSON object", param="structured_outputs")
    return value


def _convert_legacy_tag(tag: Format) -> Format:
    """Convert vLLM's older notation of structural tags. Missing parts are reported when it is compiled."""
    structures = tag.get("structures")
    tags = [
        {
            "type": "tag",
            "begin": structure.get("begin"),
            "content": {"type": "json_schema", "json_schema": structure.get("schema")},
            "end": structure.get("end"),
        }
        for structure in (structures if isinstance(structures, list) else ())
        if isinstance(structure, dict)
    ]
    return {"triggers": tag.get("triggers"), "tags": tags}
