"""A response of the Responses API, as a stream of events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.types import Scope

from dovetail.engine.outputs import Delta
from dovetail.server.chunks import encode
from dovetail.server.errors import ApiError
from dovetail.server.responses_items import Item
from dovetail.server.responses_output import DELTAS, Change, Piece, place_of
from dovetail.server.sse import AnswerStream

if TYPE_CHECKING:
    from dovetail.server.responses_answer import ResponseAnswer


class ResponseStream(AnswerStream):
    """The events of a :class:`~dovetail.server.responses_answer.ResponseAnswer`.

    What the events have in common that bring the text of an item is encoded once; a piece costs a join of bytes.
    """

    def __init__(self, answer: ResponseAnswer) -> None:
        self.answer = answer
        self._output = answer.output()
        self._number = 0
        self._head = b""
        self._has_logprobs = False
        self._response: dict[str, Any] = {}

    def opening(self) -> bytes:
        begun = {"response": self.answer.response("in_progress", [])}
        return self._event("response.created", begun) + self._event("response.in_progress", begun)

    def events(self, deltas: list[Delta]) -> bytes:
        made: list[bytes] = []
        for delta in deltas:
            if not self._output.goes_on(delta):
                made += map(self._encoded, self._output.add(delta))
            elif delta.text:
                made.append(self._piece(delta.text, b"[]"))
        return b"".join(made)

    async def settle(self) -> None:
        self._response = await self.answer.ended(self._output)

    def ending(self) -> bytes:
        return self._event(f"response.{self._response['status']}", {"response": self._response})

    def failure(self, error: ApiError, scope: Scope) -> bytes:
        return self._event("response.failed", {"response": self.answer.failed(error, self._output.snapshot())})

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
        return b'%b%d,"delta":%b%b}\n\n' % (self._head, number, encode(text), told)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        body = encode({"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (name.encode(), body)
