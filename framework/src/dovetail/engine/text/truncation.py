"""Truncates texts to a number of tokens, and keeps the special tokens around them."""

from __future__ import annotations

from typing import Literal

import tokenizers

Side = Literal["left", "right"]
"""The side from which tokens are removed."""


def encode_within(
    backend: tokenizers.Tokenizer, text: str, pair: str | None, limit: int | None, side: Side, special: bool
) -> list[int]:
    """Encode a text, or a pair of texts, of which the longer one is truncated first.

    Args:
        limit: maximum number of tokens, special ones included; None for no limit.
        special: add the model's special tokens.
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
    """Number of tokens to keep of one or two parts. The shorter one is kept whole if it is at most half."""
    if sum(lengths) <= room:
        return lengths
    if len(lengths) == 1:
        return [room]
    first = max(room - lengths[1], min(lengths[0], (room + 1) // 2))
    return [first, room - first]
