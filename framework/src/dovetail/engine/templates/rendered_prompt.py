"""A rendered conversation, and where in it the texts of control tokens come from messages."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RenderedPrompt:
    """A rendered conversation.

    Attributes:
        plain: offsets in the text, in characters, where a control token's text comes from a message. It is encoded as
            plain text there.
    """

    text: str
    plain: tuple[int, ...] = ()


def find_control_tokens(
    text: str, control_tokens: tuple[str, ...], is_plain: Callable[[int, int], bool]
) -> Iterator[tuple[int, int, bool]]:
    """The control tokens in a text: start, end, and whether it is plain text. The leftmost match counts, and of those
    the longest, as in a tokenizer; matches only overlap with plain ones.

    Args:
        is_plain: whether a match from start to end is plain text.
    """
    pattern, position = control_pattern(control_tokens), 0
    while found := pattern.search(text, position):
        start, end = found.span()
        plain = is_plain(start, end)
        yield start, end, plain
        position = start + 1 if plain else end


@functools.lru_cache(maxsize=16)
def control_pattern(control_tokens: tuple[str, ...]) -> re.Pattern[str]:
    """An expression for any of the tokens, the longest first. Tokens that begin alike share its beginning, so that the
    time does not grow with their number.
    """
    return re.compile(_any_of(sorted(set(control_tokens))) if control_tokens else r"(?!)", re.DOTALL)


def _any_of(texts: Sequence[str]) -> str:
    """An expression for one of several sorted texts."""
    rest = [text for text in texts if text]
    branches = []
    for _, group in itertools.groupby(rest, lambda text: text[0]):
        alike = list(group)
        shared = _common_prefix(alike[0], alike[-1])
        branches.append(re.escape(shared) + _any_of([text[len(shared) :] for text in alike]))
    if not branches:
        return ""
    return f"(?:{'|'.join(branches)}){'?' if len(rest) < len(texts) else ''}"


def _common_prefix(first: str, last: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]
