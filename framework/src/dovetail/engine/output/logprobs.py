"""Converts the engine's logprobs to those of the API, with the tokens' texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import overload

from dovetail.engine.messages import TokenLogprobs
from dovetail.engine.request.outputs import Logprob, PositionLogprobs
from dovetail.engine.text.tokenizer import Tokenizer

TokenText = Callable[[int], str | None]


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """The text of a single token.

    A token may be a part of a character, or hold parts of two. Each such part becomes U+FFFD here, because its
    character depends on neighbours that the alternatives of a position do not have. The completion has the whole text.
    """
    return tokenizer.token_bytes(id).decode("utf-8", "replace")


def build_position(found: TokenLogprobs, text: TokenText) -> PositionLogprobs:
    """One position: the actual token first, then the likeliest ones in order.

    Args:
        text: token id → its text.
    """
    ids, values = found.ids, found.logprobs
    entries = {ids[0]: Logprob(values[0], found.rank, text(ids[0]))}
    for rank, (id, value) in enumerate(islice(zip(ids, values, strict=True), 1, None), 1):
        if id not in entries:
            entries[id] = Logprob(value, rank, text(id))
    return entries


def build_positions(found: Sequence[TokenLogprobs], text: TokenText) -> list[PositionLogprobs]:
    return [build_position(one, text) for one in found]


class PromptPositions(Sequence[PositionLogprobs | None]):
    """The positions of a prompt. Its first token follows nothing, so it has no probability.

    Each is built when it is read: a long prompt has a million logprobs, and they arrive in an event loop.
    """

    def __init__(self, found: Sequence[TokenLogprobs], text: TokenText) -> None:
        self._found = found
        self._text = text

    def __len__(self) -> int:
        return len(self._found) + 1

    @overload
    def __getitem__(self, place: int) -> PositionLogprobs | None: ...
    @overload
    def __getitem__(self, place: slice) -> list[PositionLogprobs | None]: ...
    def __getitem__(self, place: int | slice) -> PositionLogprobs | list[PositionLogprobs | None] | None:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return build_position(self._found[place - 1], self._text) if place else None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
