"""Separates a model's reasoning from its answer while both stream in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dovetail.client.http import Piece

TAGS = ("<think>", "</think>")


def split_thoughts(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Remove ``<think>`` and ``</think>`` from the text, wherever the pieces cut them, and mark what is between."""
    pending, thinking, answered = "", False, False
    for piece in pieces:
        if piece.thought:
            yield piece
            continue
        pending += piece.text
        while True:
            tag = TAGS[thinking]
            before, found, after = pending.partition(tag)
            # Thoughts open an answer; a tag further on is something that the model writes about.
            if found and (thinking or not (answered or before.strip())):
                if thinking and before:
                    yield Piece(before, thought=True)
                thinking, pending = not thinking, after
                continue
            break
        held = 0 if answered and not thinking else _partial_tag_length(pending, tag)
        if not (thinking or answered or pending[: len(pending) - held].strip()):
            # Space before a possible first tag waits with it.
            held = len(pending)
        ready, pending = pending[: len(pending) - held], pending[len(pending) - held :]
        if ready:
            answered = answered or not thinking
            yield Piece(ready, thought=thinking)
    if pending:
        yield Piece(pending, thought=thinking)


def _partial_tag_length(text: str, tag: str) -> int:
    """The number of characters at the end of ``text`` that may be the beginning of ``tag``."""
    return next((length for length in range(len(tag) - 1, 0, -1) if text.endswith(tag[:length])), 0)
