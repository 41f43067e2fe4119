"""Converts the parsed output to output items of the Responses API, and to the events that report them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dovetail.api import Content, Reasoning
from dovetail.engine.request.outputs import Delta
from dovetail.server.responses.items import Item, new_id, output_text
from dovetail.server.tools.output_parsing import OutputEvent, OutputParsing, ToolCallArguments, ToolCallBegin

Logprobs = list[dict[str, Any]]
DELTAS = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "function_call": "response.function_call_arguments.delta",
}
"""Item type → the event for a piece of its text."""


@dataclass(slots=True)
class ItemEvent:
    """Any event other than a piece of text."""

    name: str
    fields: dict[str, Any]


@dataclass(slots=True)
class TextDelta:
    """A piece of text for the newest item."""

    text: str
    logprobs: Logprobs


Change = ItemEvent | TextDelta


class OutputItems:
    """The output items of one response.

    Args:
        logprobs: formats the logprobs of a delta's tokens; None if they are not requested.
        client_names: function name in the prompt → the name fields of its calls, for functions whose names differ.

    Attributes:
        items: in order; the last one may be open.
        tokens: number of generated tokens.
        cached: prompt tokens that were found in the prefix cache.
        reason: why generation ended.
    """

    def __init__(
        self,
        parsing: OutputParsing,
        logprobs: Callable[[Delta], Logprobs] | None = None,
        client_names: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self.items: list[Item] = []
        self.tokens = 0
        self.cached = 0
        self.reason: str | None = None
        self._parser = parsing.new_parser()
        self._logprobs = logprobs
        self._client_names = client_names
        self._plain = parsing.is_plain and logprobs is None
        self._open = False
        self._text: list[str] = []
        self._item_logprobs: Logprobs = []
        self._pending_logprobs: Logprobs = []

    def append_text(self, delta: Delta) -> bool:
        """Fast path: append the delta's text if it only continues the open item. Returns False if it does not."""
        if not (self._plain and self._open) or delta.finish_reason is not None:
            return False
        self.tokens += len(delta.token_ids)
        self._text.append(delta.text)
        return True

    def add(self, delta: Delta) -> list[Change]:
        """Process a delta. Returns the resulting events."""
        self.tokens += len(delta.token_ids)
        self.cached += delta.cached_tokens
        events = self._parser.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            self.reason = delta.finish_reason
            events += self._parser.finish()
        if self._logprobs is not None:
            self._hold_logprobs(self._logprobs(delta), events)
        changes = [change for event in events for change in self._apply_event(event)]
        return changes if delta.finish_reason is None else changes + self._finish_items()

    def _hold_logprobs(self, logprobs: Logprobs, events: list[OutputEvent]) -> None:
        """Keep logprobs until the text of their tokens arrives. A token that holds the end of one item and the start of
        the message counts to the message.
        """
        self._pending_logprobs += logprobs
        if events and not any(isinstance(event, Content) for event in events):
            self._pending_logprobs = []

    def _apply_event(self, event: OutputEvent) -> list[Change]:
        match event:
            case Content(text):
                begun = self._open_item("message", "msg", {"role": "assistant", "content": []})
                logprobs, self._pending_logprobs = self._pending_logprobs, []
                self._item_logprobs += logprobs
                return [*begun, self._piece(text, logprobs)]
            case Reasoning(text):
                return [*self._open_item("reasoning", "rs", {"summary": [], "content": []}), self._piece(text)]
            case ToolCallBegin(_, id, name):
                closed = self._close_item("completed")
                function = {"name": name, **self._client_names.get(name, {})}
                return closed + self._open_item("function_call", "fc", {"call_id": id, **function, "arguments": ""})
            case ToolCallArguments(_, text):
                return [self._piece(text)]

    def _piece(self, text: str, logprobs: Logprobs | None = None) -> TextDelta:
        self._text.append(text)
        return TextDelta(text, logprobs or [])

    @property
    def _index(self) -> int:
        return len(self.items) - 1

    def _open_item(self, kind: str, prefix: str, fields: dict[str, Any]) -> list[Change]:
        """Make an item of this type the open one: the current one if it has the type, else a new one."""
        if self._open and self.items[-1]["type"] == kind:
            return []
        changes = self._close_item("completed")
        item = {"id": new_id(prefix), "type": kind, "status": "in_progress", **fields}
        self.items.append(item)
        self._open, self._text, self._item_logprobs = True, [], []
        changes.append(ItemEvent("response.output_item.added", {"output_index": self._index, "item": dict(item)}))
        if kind != "function_call":
            changes.append(
                ItemEvent("response.content_part.added", {**item_position(item, self._index), "part": self._part("")})
            )
        return changes

    def _part(self, text: str) -> Item:
        if self.items[-1]["type"] == "message":
            return output_text(text, self._item_logprobs)
        return {"type": "reasoning_text", "text": text}

    def _finish_items(self) -> list[Change]:
        changes: list[Change] = []
        if not self.items:  # an answer of nothing is a message of no text
            changes += self._apply_event(Content(""))
        elif self._pending_logprobs and self._open and self.items[-1]["type"] == "message":
            changes += self._apply_event(Content(""))  # tokens without a text, such as that of the end
        return changes + self._close_item("incomplete" if self.reason == "length" else "completed")

    def _close_item(self, status: str) -> list[Change]:
        if not self._open:
            return []
        self._open = False
        item, text = self.items[-1], "".join(self._text)
        place = item_position(item, self._index)
        item["status"] = status
        changes: list[Change] = []
        if item["type"] == "function_call":
            item["arguments"] = text
            done = {"name": item["name"], "arguments": text}
            changes.append(ItemEvent("response.function_call_arguments.done", place | done))
        else:
            part = self._part(text)
            item["content"] = [part]
            message = item["type"] == "message"
            name = "response.output_text.done" if message else "response.reasoning_text.done"
            done = {"text": text, "logprobs": self._item_logprobs} if message else {"text": text}
            changes += (ItemEvent(name, place | done), ItemEvent("response.content_part.done", {**place, "part": part}))
        changes.append(ItemEvent("response.output_item.done", {"output_index": self._index, "item": dict(item)}))
        return changes

    def snapshot(self) -> list[Item]:
        """The items so far."""
        if self._open:
            self._close_item("incomplete")
        return self.items


def item_position(item: Item, index: int) -> dict[str, Any]:
    """The event fields that locate a piece of an item."""
    place = {"item_id": item["id"], "output_index": index}
    return place if item["type"] == "function_call" else {**place, "content_index": 0}
