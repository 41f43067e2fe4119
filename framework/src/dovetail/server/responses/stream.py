"""A response of the Responses API, as a stream of events."""

from __future__ import annotations

from typing import Any, Protocol

from starlette.types import Scope

from dovetail.engine.request.outputs import Delta
from dovetail.server.generate.chunks import encode
from dovetail.server.generate.sse import AnswerStream
from dovetail.server.http.errors import ApiError
from dovetail.server.responses.items import Item
from dovetail.server.responses.output import DELTAS, Change, Output, Piece, place_of
from dovetail.server.responses.protocol import ResponsesRequest
from dovetail.server.stored.responses import Told

EVENT_END = b"\n\n"
"""Which no event holds: JSON writes the end of a line as two characters."""


class StreamedResponse(Protocol):
    """What a stream needs of the response whose events it sends."""

    body: ResponsesRequest

    def output(self) -> Output: ...

    def response(self, status: str, items: list[Item]) -> dict[str, Any]: ...

    async def ended(self, output: Output) -> dict[str, Any]: ...

    def failed(self, error: ApiError, items: list[Item]) -> dict[str, Any]: ...


class ResponseStream(AnswerStream):
    """The events of a :class:`~dovetail.server.responses.answer.ResponseAnswer`.

    What the events have in common that bring the text of an item is encoded once; a piece costs a join of bytes.
    """

    def __init__(self, answer: StreamedResponse) -> None:
        self.answer = answer
        self._output = answer.output()
        self._number = 0
        self._head = b""
        self._has_logprobs = False
        self.response: dict[str, Any] = {}
        """The response as it has ended, once it has."""

    def told(self, events: bytes) -> Told | None:
        """Events that have just been made, as they are kept; None if there are none."""
        return Told(self._number - 1, events) if events else None

    def opening(self) -> bytes:
        status = "queued" if self.answer.body.background else "in_progress"
        made = {"response": self.answer.response(status, [])}
        return self._event("response.created", made) + self._event(f"response.{status}", made)

    def begun(self) -> bytes:
        """What is told when a response in the background begins."""
        return self._event("response.in_progress", {"response": self.answer.response("in_progress", [])})

    def events(self, deltas: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in deltas:
            if not self._output.goes_on(delta):
                made += map(self._encoded, self._output.add(delta))
            elif delta.text:
                made.append(self._piece(delta.text, b"[]"))
        return b"".join(made)

    async def settle(self) -> None:
        self.response = await self.answer.ended(self._output)

    def ending(self) -> bytes:
        return self._event(f"response.{self.response['status']}", {"response": self.response})

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        self.response = self.answer.failed(error, self._output.snapshot())
        return self._event("response.failed", {"response": self.response})

    def _encoded(self, change: Change) -> bytes:
        if isinstance(change, Piece):
            return self._piece(change.text, encode(change.logprobs))
        if change.name == "response.output_item.added":
            self._name_pieces(change.fields["item"], change.fields["output_index"])
        return self._event(change.name, change.fields)

    def _name_pieces(self, item: Item, index: int) -> None:
        """Encode what the pieces of an item have in common."""
        name = DELTAS[item["type"]]
        place = encode({"type": name, **place_of(item, index)})
        self._head = b'event: %b\ndata: %b,"sequence_number":' % (name.encode(), place[:-1])
        self._has_logprobs = item["type"] == "message"

    def _piece(self, text: str, logprobs: bytes) -> bytes:
        number, self._number = self._number, self._number + 1
        told = b',"logprobs":' + logprobs if self._has_logprobs else b""
        return b'%b%d,"delta":%b%b}%b' % (self._head, number, encode(text), told, EVENT_END)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        made = event(name, self._number, fields)
        self._number += 1
        return made


def event(name: str, number: int, fields: dict[str, Any]) -> bytes:
    """One event, as it is sent."""
    body = encode({"type": name, "sequence_number": number, **fields})
    return b"event: %b\ndata: %b%b" % (name.encode(), body, EVENT_END)
