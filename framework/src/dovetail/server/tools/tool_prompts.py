"""Writes tools, earlier calls and results into the prompt: by the chat template, or as text if the template does not
support tools.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dovetail.api import CallFormat, Tool, ToolParser
from dovetail.engine.templates.facts import TemplateFacts
from dovetail.engine.templates.image_parts import IMAGE_PART
from dovetail.engine.templates.messages import read_content_text
from dovetail.server.http.errors import ApiError
from dovetail.server.protocol.content import ImagePart, content_text
from dovetail.server.protocol.requests import ChatMessage, ToolCall
from dovetail.server.tools.forced_calls import ForcedCalls
from dovetail.server.tools.system_messages import join_user_turns, place_system_messages
from dovetail.server.tools.tool_choice import ToolSelection

Turn = dict[str, Any]

INSTRUCTIONS = """\
You may call functions. Each line is one, with the JSON schema of its arguments:
{tools}
To call one, write nothing but this, with the function's name and your arguments in their places:
{example}"""


def build_template_messages(
    messages: Sequence[ChatMessage],
    template: str,
    facts: TemplateFacts,
    selection: ToolSelection,
    parser: type[ToolParser] | None,
) -> list[Turn]:
    """The messages for the chat template.

    Args:
        facts: about the template.

    Raises:
        ApiError: a message lacks its content, or is a result without a call.
    """
    turns = [_turn(message, index, template) for index, message in enumerate(messages)]
    _name_results(turns)
    if not facts.shows_tools:
        call_format = _call_frame(parser, selection.in_prompt)
        turns = join_user_turns((_write_calls_as_text(turn, call_format), turn["role"] == "tool") for turn in turns)
        if selection.in_prompt:
            turns = _add_to_system(turns, build_tool_instructions(selection.in_prompt, call_format))
    return place_system_messages(turns, facts.system)


def build_tool_instructions(tools: Sequence[Tool], call_format: CallFormat | None) -> str:
    """Instructions that describe the tools as text.

    Args:
        call_format: the format in which the model must write its calls.
    """
    lines = "\n".join(json.dumps(dict(tool), ensure_ascii=False) for tool in tools)
    return INSTRUCTIONS.format(
        tools=lines, example=_write_call(call_format, str(tools[0]["name"]), '{"name of an argument": …}')
    )


def _turn(message: ChatMessage, index: int, template: str) -> Turn:
    # A content of null is an empty one. One that is not there at all is forgotten.
    if "content" not in message.model_fields_set and message.role != "assistant":
        param = f"messages[{index}].content"
        raise ApiError(400, f"{param} is required", param=param, code="missing_required_parameter")
    # Most templates were written before this role, and would refuse it or drop its text.
    role = "system" if message.role == "developer" and "developer" not in template else message.role
    turn: Turn = {"role": role, "content": _content(message) or message.refusal or ""}
    for name in ("name", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            turn[name] = value
    thoughts = message.reasoning_content or message.reasoning
    if thoughts is not None:
        turn["reasoning_content"] = thoughts
    if message.tool_calls:
        turn["tool_calls"] = list(map(_dump_call, message.tool_calls))
        turn["content"] = _content(message)  # its absence tells templates that the message only has calls
    return turn


def _content(message: ChatMessage) -> str | list[dict[str, str]] | None:
    """The content for the chat template: a list of parts only if there are several, or an image."""
    content = message.content
    if not isinstance(content, list) or (len(content) < 2 and not any(isinstance(p, ImagePart) for p in content)):
        return None if content is None else content_text(content)
    return [dict(IMAGE_PART) if isinstance(p, ImagePart) else {"type": "text", "text": p.text} for p in content]


def _dump_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments or "{}"}
    shown: dict[str, Any] = {"type": "function", "function": function}
    return shown if call.id is None else {"id": call.id, **shown}


def _name_results(turns: list[Turn]) -> None:
    """Add the function's name to each result. Some templates need it, and clients leave it out."""
    names: dict[str, str] = {}
    for turn in turns:
        for call in turn.get("tool_calls", ()):
            if "id" in call:
                names[call["id"]] = call["function"]["name"]
        if turn["role"] == "tool" and (name := names.get(turn.get("tool_call_id", ""))):
            turn.setdefault("name", name)


def _call_frame(parser: type[ToolParser] | None, tools: Sequence[Tool]) -> CallFormat | None:
    """The format of one call of a function named ``NAME``."""
    if parser is None or parser is ForcedCalls:
        return None
    return parser.call_format([{"name": NAME}])


NAME = "FUNCTION_NAME"


def _write_call(call_format: CallFormat | None, name: str, arguments: str) -> str:
    if call_format is None:
        return f'[{{"name": {json.dumps(name)}, "arguments": {arguments}}}]'
    begin, end = call_format.calls[0]
    return f"{call_format.before}{begin}{arguments}{end}{call_format.after}".replace(NAME, name)


def _write_calls_as_text(turn: Turn, call_format: CallFormat | None) -> Turn:
    if turn["role"] == "tool":
        what = f"the call of {turn['name']}" if "name" in turn else "the call"
        return {"role": "user", "content": f"Result of {what}: {read_content_text(turn['content'])}"}
    if "tool_calls" in turn:
        calls = [
            _write_call(call_format, call["function"]["name"], call["function"]["arguments"])
            for call in turn.pop("tool_calls")
        ]
        return {**turn, "content": "\n".join([*filter(None, [read_content_text(turn["content"])]), *calls])}
    return turn


def _add_to_system(turns: list[Turn], text: str) -> list[Turn]:
    """The messages, with the text added to the system message at the beginning."""
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{read_content_text(turns[0]['content'])}\n\n{text}"}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]
