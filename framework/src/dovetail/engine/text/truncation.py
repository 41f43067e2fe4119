"""Cutting texts to a number of tokens, such that the special tokens around them stay whole."""

from __future__ import annotations

from typing import Literal

import tokenizers

Side = Literal["left", "right"]
"""Where tokens are cut away."""


def encode_within(
    backend: tokenizers.Tokenizer, text: str, pair: str | None, limit: int | None, side: Side, special: bool
) -> list[int]:
    """Ids of a text, or of two that belong together, of which the longer one is cut first.

    Args:
        limit: tokens at most, special ones included; None for any number.
        special: put the model's own special tokens around.
    """
    # A batch, since the library lets go of the interpreter's lock for batches alone.
    given = [text] if pair is None else [text, pair]
    parts = backend.encode_batch_fast(given, add_special_tokens=False)
    if limit is not None:
        room = limit - (backend.num_special_tokens_to_add(pair is not None) if special else 0)
        lengths = [len(part.ids) for part in parts]
        for part, keep in zip(parts, _split_limit(lengths, max(room, 0)), strict=True):
            part.truncate(keep, direction=side)
    ids = backend.post_process(parts[0], parts[1] if pair is not None else None, special).ids
    return ids if limit is None else ids[:limit]


def _split_limit(lengths: list[int], room: int) -> list[int]:
    """How much is kept of one or two parts, the shorter one whole if it takes no more than half."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first = max(room - lengths[1], min(lengths[0], (room + 1) // 2))
    return [first, room - first]
