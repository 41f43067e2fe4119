"""Streams a response of the Responses API as events."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.types import Scope

from dovetail.engine.request.outputs import Delta
from dovetail.server.generate.chunks import encode_json
from dovetail.server.generate.sse import StreamEncoder
from dovetail.server.http.errors import ApiError
from dovetail.server.responses.items import Item
from dovetail.server.responses.output_items import DELTAS, Change, OutputItems, TextDelta, item_position
from dovetail.server.responses.protocol import ResponsesRequest
from dovetail.server.stored.responses import EventBatch
from dovetail.utils.panics import reraise_control_flow

EVENT_END = b"\n\n"
"""A separator that no event contains, because JSON escapes line ends."""


class StreamedResponse(Protocol):
    """The interface of the response whose events are streamed."""

    body: ResponsesRequest

    def output(self) -> OutputItems: ...

    def response_object(self, status: str, items: list[Item]) -> dict[str, Any]: ...

    async def finish_response(self, output: OutputItems) -> dict[str, Any]: ...

    def failed_response(self, error: ApiError, items: list[Item]) -> dict[str, Any]: ...


class ResponsesStreamEncoder(StreamEncoder):
    """Encodes the events of a :class:`~dovetail.server.responses.response_builder.ResponsesResponseBuilder`.

    What the text events of an item share is encoded once; each piece only costs a join of bytes.
    """

    def __init__(self, builder: StreamedResponse) -> None:
        self.builder = builder
        self._output = builder.output()
        self._number = 0
        self._head = b""
        self._has_logprobs = False
        self.response: dict[str, Any] = {}
        """The finished response, once there is one."""

    def event_batch(self, events: bytes) -> EventBatch | None:
        """The newest events in the form in which they are stored; None if there are none."""
        return EventBatch(self._number - 1, events) if events else None

    def encode_start(self) -> bytes:
        status = "queued" if self.builder.body.background else "in_progress"
        encoded = {"response": self.builder.response_object(status, [])}
        return self._event("response.created", encoded) + self._event(f"response.{status}", encoded)

    def encode_in_progress(self) -> bytes:
        """Encode the events for the start of a background response."""
        return self._event("response.in_progress", {"response": self.builder.response_object("in_progress", [])})

    def encode_deltas(self, deltas: list[Delta]) -> bytes:
        encoded: list[bytes] = []
        for delta in deltas:
            if not self._output.append_text(delta):
                encoded += map(self._encode_change, self._output.add(delta))
            elif delta.text:
                encoded.append(self._piece(delta.text, b"[]"))
        return b"".join(encoded)

    async def finish(self) -> None:
        self.response = await self.builder.finish_response(self._output)

    def encode_end(self) -> bytes:
        return self._event(f"response.{self.response['status']}", {"response": self.response})

    def encode_error(self, error: ApiError, scope: Scope) -> bytes:
        try:
            items = self._output.snapshot()
        except BaseException as another:  # what fails here may have failed before
            reraise_control_flow(another)
            items = []
        self.response = self.builder.failed_response(error, items)
        return self._event("response.failed", {"response": self.response})

    def _encode_change(self, change: Change) -> bytes:
        if isinstance(change, TextDelta):
            return self._piece(change.text, encode_json(change.logprobs))
        if change.name == "response.output_item.added":
            self._prepare_deltas(change.fields["item"], change.fields["output_index"])
        return self._event(change.name, change.fields)

    def _prepare_deltas(self, item: Item, index: int) -> None:
        """Encode once what the text events of an item share."""
        name = DELTAS[item["type"]]
        place = encode_json({"type": name, **item_position(item, index)})
        self._head = b'event: %b\ndata: %b,"sequence_number":' % (name.encode(), place[:-1])
        self._has_logprobs = item["type"] == "message"

    def _piece(self, text: str, logprobs: bytes) -> bytes:
        number, self._number = self._number, self._number + 1
        fields = b',"logprobs":' + logprobs if self._has_logprobs else b""
        return b'%b%d,"delta":%b%b}%b' % (self._head, number, encode_json(text), fields, EVENT_END)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        encoded = encode_event(name, self._number, fields)
        self._number += 1
        return encoded


def encode_event(name: str, number: int, fields: dict[str, Any]) -> bytes:
    """One event as bytes."""
    body = encode_json({"type": name, "sequence_number": number, **fields})
    return b"event: %b\ndata: %b%b" % (name.encode(), body, EVENT_END)
