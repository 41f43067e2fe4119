"""Converts bad words to token ids."""

from __future__ import annotations

from collections.abc import Sequence

from dovetail.api.errors import RequestError
from dovetail.engine.text.tokenizer import Tokenizer


def encode_bad_words(words: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Encode each text in the spellings that the model may write: at the beginning of a text and after a space, which
    are different tokens in most vocabularies.

    Raises:
        RequestError: a text has no tokens.
    """
    found: list[list[int]] = []
    for word in words:
        bare = word.lstrip(" ") or word
        for text in (bare, f" {bare}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            if not ids:
                raise RequestError(
                    f"bad_words holds {word!r}, for which the tokenizer has no tokens",
                    "leave it out",
                    param="bad_words",
                )
            found.append(ids)
    return [ids for i, ids in enumerate(found) if not _is_covered(ids, found[:i])]


def _is_covered(ids: list[int], others: list[list[int]]) -> bool:
    """Whether these ids end with one of the others, which then forbids them already."""
    return any(ids[-len(other) :] == other for other in others)
