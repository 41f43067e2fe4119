"""Items of Responses conversations, as they are stored and shown, and their conversion to chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from dovetail.server.responses.protocol import (
    FunctionCallItem,
    FunctionCallOutputItem,
    InputText,
    MessageItem,
    OutputText,
    ReasoningItem,
    Refusal,
)
from dovetail.server.responses.tools import prompt_name

Item = dict[str, Any]


def new_id(prefix: str) -> str:
    """A new id with the prefix of its kind, such as ``msg_…``."""
    return f"{prefix}_{uuid4().hex}"


def build_message_item(role: str, text: str) -> Item:
    """The item of a client's message."""
    return build_item(MessageItem(role=role, content=text))  # type: ignore[arg-type]


def given_ids(given: str | Sequence[Any]) -> frozenset[str]:
    """The ids that a client gave to the items of its request, which may be the text of a message alone."""
    if isinstance(given, str):
        return frozenset()
    items: Sequence[Any] = given
    return frozenset(item.id for item in items if item.id)


def build_item(given: MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem) -> Item:
    """An item of a request, as OpenAI's API shows it."""
    status = given.status or "completed"
    shown: Item
    match given:
        case MessageItem():
            texts = (
                [InputText(type="input_text", text=given.content)] if isinstance(given.content, str) else given.content
            )
            parts = [_part(part, given.role) for part in texts]
            return {
                "id": given.id or new_id("msg"),
                "type": "message",
                "status": status,
                "role": given.role,
                "content": parts,
            }
        case FunctionCallItem():
            shown = {"call_id": given.call_id, "name": given.name, "arguments": given.arguments or ""}
            if given.namespace:
                shown["namespace"] = given.namespace
            return {"id": given.id or new_id("fc"), "type": "function_call", "status": status, **shown}
        case FunctionCallOutputItem():
            output = given.output if isinstance(given.output, str) else [_part(part, "user") for part in given.output]
            shown = {"call_id": given.call_id, "output": output}
            return {"id": given.id or new_id("fco"), "type": "function_call_output", "status": status, **shown}
        case ReasoningItem():
            shown = {name: [part.model_dump() for part in getattr(given, name)] for name in ("summary", "content")}
            return {"id": given.id or new_id("rs"), "type": "reasoning", "status": status, **shown}


def _part(part: InputText | OutputText | Refusal, role: str) -> Item:
    if isinstance(part, Refusal):
        return {"type": "refusal", "refusal": part.refusal}
    if role == "assistant":
        return output_text(part.text)
    return {"type": "input_text", "text": part.text}


def output_text(text: str, logprobs: list[Any] | None = None) -> Item:
    """The content part of a message that holds the model's text."""
    return {"type": "output_text", "annotations": [], "logprobs": logprobs or [], "text": text}


def to_chat_messages(items: list[Item]) -> list[dict[str, Any]]:
    """Convert items to messages of the chat route. Consecutive items of the assistant become one message."""
    turns: list[dict[str, Any]] = []
    own: dict[str, Any] | None = None
    for item in items:
        kind = item["type"]
        if kind == "function_call_output" or (kind == "message" and item["role"] != "assistant"):
            own = None
            turns.append(_turn(item))
            continue
        if own is None:
            own = {"role": "assistant", "content": None}
            turns.append(own)
        if kind == "function_call":
            function = {"name": prompt_name(item["name"], item.get("namespace")), "arguments": item["arguments"]}
            own.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})
        elif kind == "message":
            own["content"] = _joined(own["content"], join_text(item["content"]))
        elif thoughts := join_text(item["content"] or item["summary"]):
            own["reasoning_content"] = _joined(own.get("reasoning_content"), thoughts)
    # Reasoning alone is not a message, and most templates would refuse it.
    return [turn for turn in turns if turn["content"] is not None or "tool_calls" in turn]


def _turn(item: Item) -> dict[str, Any]:
    if item["type"] == "message":
        return {"role": item["role"], "content": join_text(item["content"])}
    return {"role": "tool", "tool_call_id": item["call_id"], "content": join_text(item["output"])}


def join_text(content: str | list[Item]) -> str:
    """The text of content parts of any kind."""
    if isinstance(content, str):
        return content
    return "\n".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in content)


def _joined(before: str | None, text: str) -> str:
    return text if before is None else f"{before}\n{text}"
