"""The form that a turn must have, put together from what a request says of it: calls that must be made or must follow their schemas, the form of the answer, and the
thoughts that come before either.

Such a form is a structural tag, as xgrammar and vLLM write it: ``{"type": "structural_tag", "format": …}``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dovetail.api import CallFrame, RequestError, Tool
from dovetail.engine.request.params import StructuredOutputs
from dovetail.server.tools.forced_calls import ForcedCalls, calls_schema, parameters
from dovetail.server.tools.output_parsing import Reading

Format = dict[str, Any]


def shaped(asked: StructuredOutputs | None, reading: Reading) -> StructuredOutputs | None:
    """The form of a turn.

    Args:
        asked: the form of the answer.
        reading: of the turn.

    Raises:
        RequestError: the form is to be part of another, and is no JSON.
    """
    calls = _calls(reading)
    if calls is None and asked is None:
        return None
    thoughts = reading.reasoning(reading.prompt).frame() if reading.reasoning else None
    if calls is None and thoughts is None:
        return asked
    if asked is None:
        wanted = calls
    elif calls is None or reading.offer.forced:
        wanted = calls or _format(asked)
    else:
        wanted = {"type": "or", "elements": [calls, _format(asked)]}
    assert wanted is not None
    if thoughts is not None:
        begin, end = thoughts
        tag = {"type": "tag", "begin": begin, "content": {"type": "any_text"}, "end": end}
        wanted = {"type": "sequence", "elements": [tag, wanted]}
    return StructuredOutputs(structural_tag={"type": "structural_tag", "format": wanted})


def _calls(reading: Reading) -> Format | None:
    """The form of calls, where there must be some, or where they must follow their schemas."""
    offer = reading.offer
    if reading.tools is None or not (offer.forced or offer.strict):
        return None
    frame = reading.tools.frame(offer.callable)
    if offer.forced:
        if frame is None:
            assert reading.tools is ForcedCalls
            return {"type": "json_schema", "json_schema": calls_schema(offer.callable, parallel=offer.parallel)}
        return _must_call(frame, offer.callable, parallel=offer.parallel)
    return None if frame is None else _may_call(frame, offer.callable, parallel=offer.parallel)


def _must_call(frame: CallFrame, tools: Sequence[Tool], *, parallel: bool) -> Format:
    calls = {
        "type": "tags_with_separator",
        "tags": [_tag(begin, tool, end) for (begin, end), tool in zip(frame.calls, tools, strict=True)],
        "separator": frame.separator,
        "at_least_one": True,
        "stop_after_first": not parallel,
    }
    around = [{"type": "const_string", "value": text} if text else None for text in (frame.before, frame.after)]
    elements = [part for part in (around[0], calls, around[1]) if part is not None]
    return {"type": "sequence", "elements": elements} if len(elements) > 1 else calls


def _may_call(frame: CallFrame, tools: Sequence[Tool], *, parallel: bool) -> Format:
    """Free text, in which whatever begins like a call goes on as one."""
    begins = [frame.before + begin for begin, _ in frame.calls]
    first, last = min(begins), max(begins)  # what these share, all share
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return {
        "type": "triggered_tags",
        "triggers": [first[:same]],
        "tags": [
            _tag(begin, tool, end + frame.after)
            for begin, (_, end), tool in zip(begins, frame.calls, tools, strict=True)
        ],
        "at_least_one": False,
        "stop_after_first": not parallel,
    }


def _tag(begin: str, tool: Tool, end: str) -> Format:
    return {
        "type": "tag",
        "begin": begin,
        "content": {"type": "json_schema", "json_schema": parameters(tool)},
        "end": end,
    }


def _format(asked: StructuredOutputs) -> Format:
    """The form of an answer, as part of another."""
    if asked.json is not None:
        return {"type": "json_schema", "json_schema": _object(asked.json, "json")}
    if asked.json_object:
        return {"type": "json_schema", "json_schema": {"type": "object"}}
    if asked.regex is not None:
        return {"type": "regex", "pattern": asked.regex}
    if asked.choice is not None:
        return {"type": "or", "elements": [{"type": "const_string", "value": text} for text in asked.choice]}
    if asked.grammar is not None:
        return {"type": "grammar", "grammar": asked.grammar}
    tag = _object(asked.structural_tag, "structural_tag")
    return tag["format"] if "format" in tag else {"type": "triggered_tags", **_older(tag)}


def _object(value: str | Format | None, name: str) -> Format:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RequestError(f"structured_outputs.{name} is not JSON: {error}", param="structured_outputs") from None
    if not isinstance(value, dict):
        raise RequestError(f"structured_outputs.{name}: wanted a JSON object", param="structured_outputs")
    return value


def _older(tag: Format) -> Format:
    """vLLM's older form of structural tags. What it lacks is told when it is compiled."""
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
