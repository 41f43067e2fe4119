"""What the model writes, as the output items of the Responses API, and the events that tell of their making."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dovetail.api import Content, Reasoning
from dovetail.engine.request.outputs import Delta
from dovetail.server.responses.items import Item, new_id, output_text
from dovetail.server.tools.output_parsing import Arguments, Call, Reading, TurnEvent

Logprobs = list[dict[str, Any]]
DELTAS = {
    "message": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "function_call": "response.function_call_arguments.delta",
}
"""Type of item → the event that brings a piece of its text."""


@dataclass(slots=True)
class Event:
    """Something other than a piece of text."""

    name: str
    fields: dict[str, Any]


@dataclass(slots=True)
class Piece:
    """A piece of the text of the item that was added last."""

    text: str
    logprobs: Logprobs


Change = Event | Piece


class Output:
    """The items of one response.

    Args:
        logprobs: of the tokens of a delta; None where nobody wants them.
        named: by the name that the model knows a function by, the fields of a call that name it to the client, where they differ.

    Attributes:
        items: in order; the last may be open.
        tokens: generated.
        cached: of the prompt, found in the cache.
        reason: why generation ended.
    """

    def __init__(
        self,
        reading: Reading,
        logprobs: Callable[[Delta], Logprobs] | None = None,
        named: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self.items: list[Item] = []
        self.tokens = 0
        self.cached = 0
        self.reason: str | None = None
        self._turn = reading.turn()
        self._logprobs = logprobs
        self._named = named
        self._plain = reading.plain and logprobs is None
        self._open = False
        self._text: list[str] = []
        self._told: Logprobs = []
        self._waiting: Logprobs = []

    def goes_on(self, delta: Delta) -> bool:
        """Take in a delta if all that it does is to bring a piece of the item that is open, as most do; whether it was."""
        if not (self._plain and self._open) or delta.finish_reason is not None:
            return False
        self.tokens += len(delta.token_ids)
        self._text.append(delta.text)
        return True

    def add(self, delta: Delta) -> list[Change]:
        """Take in a delta; what it changes."""
        self.tokens += len(delta.token_ids)
        self.cached += delta.cached_tokens
        events = self._turn.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            self.reason = delta.finish_reason
            events += self._turn.finish()
        if self._logprobs is not None:
            self._wait(self._logprobs(delta), events)
        made = [change for event in events for change in self._take(event)]
        return made if delta.finish_reason is None else made + self._end()

    def _wait(self, logprobs: Logprobs, events: list[TurnEvent]) -> None:
        """Keep logprobs for the text of their tokens, which may come later. A token at a seam counts with the text of the message."""
        self._waiting += logprobs
        if events and not any(isinstance(event, Content) for event in events):
            self._waiting = []

    def _take(self, event: TurnEvent) -> list[Change]:
        match event:
            case Content(text):
                begun = self._begin("message", "msg", {"role": "assistant", "content": []})
                logprobs, self._waiting = self._waiting, []
                self._told += logprobs
                return [*begun, self._piece(text, logprobs)]
            case Reasoning(text):
                return [*self._begin("reasoning", "rs", {"summary": [], "content": []}), self._piece(text)]
            case Call(_, id, name):
                closed = self._close("completed")
                function = {"name": name, **self._named.get(name, {})}
                return closed + self._begin("function_call", "fc", {"call_id": id, **function, "arguments": ""})
            case Arguments(_, text):
                return [self._piece(text)]

    def _piece(self, text: str, logprobs: Logprobs | None = None) -> Piece:
        self._text.append(text)
        return Piece(text, logprobs or [])

    @property
    def _index(self) -> int:
        return len(self.items) - 1

    def _begin(self, kind: str, prefix: str, fields: dict[str, Any]) -> list[Change]:
        """Go on with an item of this type, a new one if another is open or none."""
        if self._open and self.items[-1]["type"] == kind:
            return []
        made = self._close("completed")
        item = {"id": new_id(prefix), "type": kind, "status": "in_progress", **fields}
        self.items.append(item)
        self._open, self._text, self._told = True, [], []
        made.append(Event("response.output_item.added", {"output_index": self._index, "item": dict(item)}))
        if kind != "function_call":
            made.append(Event("response.content_part.added", {**place_of(item, self._index), "part": self._part("")}))
        return made

    def _part(self, text: str) -> Item:
        if self.items[-1]["type"] == "message":
            return output_text(text, self._told)
        return {"type": "reasoning_text", "text": text}

    def _end(self) -> list[Change]:
        made: list[Change] = []
        if not self.items:  # an answer of nothing is a message of no text
            made += self._take(Content(""))
        elif self._waiting and self._open and self.items[-1]["type"] == "message":
            made += self._take(Content(""))  # tokens without a text, such as that of the end
        return made + self._close("incomplete" if self.reason == "length" else "completed")

    def _close(self, status: str) -> list[Change]:
        if not self._open:
            return []
        self._open = False
        item, text = self.items[-1], "".join(self._text)
        place = place_of(item, self._index)
        item["status"] = status
        made: list[Change] = []
        if item["type"] == "function_call":
            item["arguments"] = text
            done = {"name": item["name"], "arguments": text}
            made.append(Event("response.function_call_arguments.done", place | done))
        else:
            part = self._part(text)
            item["content"] = [part]
            message = item["type"] == "message"
            name = "response.output_text.done" if message else "response.reasoning_text.done"
            done = {"text": text, "logprobs": self._told} if message else {"text": text}
            made += (Event(name, place | done), Event("response.content_part.done", {**place, "part": part}))
        made.append(Event("response.output_item.done", {"output_index": self._index, "item": dict(item)}))
        return made

    def snapshot(self) -> list[Item]:
        """The items as far as they have come."""
        if self._open:
            self._close("incomplete")
        return self.items


def place_of(item: Item, index: int) -> dict[str, Any]:
    """Where a piece of an item belongs."""
    place = {"item_id": item["id"], "output_index": index}
    return place if item["type"] == "function_call" else {**place, "content_index": 0}
