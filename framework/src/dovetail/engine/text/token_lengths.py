"""A lower bound of the number of tokens of a text, from its length. Texts that are certainly too long are refused
without being tokenized.

A bound is only possible if it is known which characters of a text become part of a token. That is the case for
byte-level BPE, and for BPE with byte fallback, as in nearly all language models, unless the tokenizer first changes
texts in a way that may shorten them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import tokenizers

from dovetail.engine.text.detokenizer import byte_alphabet

MAX_NFC_SHRINK = 4
"""Maximum factor by which NFC shortens a text in bytes. The worst case is 7 to 2: an iota, written as U+1FBE, with
two accents.
"""
UTF8_BYTES = {
    character: byte for character, byte in byte_alphabet().items() if byte not in (0xC0, 0xC1) and byte < 0xF5
}
"""The bytes that occur in UTF-8, by their characters in byte-level vocabularies."""


class LongestToken(NamedTuple):
    """The largest text of one token.

    Attributes:
        length: in bytes of UTF-8, or in characters.
        dropped: bytes without a token in the vocabulary.
    """

    length: int
    in_bytes: bool
    dropped: bytes = b""

    def min_token_count(self, text: str) -> int:
        """A lower bound of the text's number of tokens."""
        counted = text.encode(errors="surrogatepass").translate(None, self.dropped) if self.in_bytes else text
        return -(-len(counted) // self.length)


def find_longest_token(backend: tokenizers.Tokenizer) -> LongestToken | None:
    """The largest text of one token of a vocabulary, or None if text may be dropped or merged without a limit."""
    added = backend.get_added_tokens_decoder().values()
    if not isinstance(backend.model, tokenizers.models.BPE) or any(token.lstrip or token.rstrip for token in added):
        return None
    before, cuts = list(_steps(backend.normalizer)), list(_steps(backend.pre_tokenizer))
    if any(step.get("behavior") == "Removed" for step in cuts):
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    # In the byte alphabet a character is a byte; added tokens are written as they are.
    longest = max(map(len, (*vocabulary, *(token.content.encode() for token in added))))
    if _is_byte_level(cuts):
        dropped = bytes(byte for character, byte in UTF8_BYTES.items() if character not in vocabulary)
        if not before:
            return LongestToken(longest, True, dropped)
        composes = {step["type"] for step in before} == {"NFC"}
        return LongestToken(longest * MAX_NFC_SHRINK, True) if composes and not dropped else None
    keeps = all(step["type"] == "Prepend" or _replaces_one_character(step) for step in before)
    falls_back = backend.model.byte_fallback and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    return LongestToken(longest, False) if keeps and falls_back and _only_splits(cuts) else None


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer."""
    if part is None:
        return
    state = json.loads(part.__getstate__())
    if state["type"] == "Sequence":
        yield from state.get("normalizers") or state.get("pretokenizers") or ()
    else:
        yield state


def _is_byte_level(cuts: list[dict[str, Any]]) -> bool:
    kinds = [step["type"] for step in cuts]
    return "ByteLevel" in kinds and set(kinds) <= {"ByteLevel", "Split", "Digits", "Punctuation"}


def _replaces_one_character(step: dict[str, Any]) -> bool:
    """Whether a step replaces one character with another, such as a space with ``▁``."""
    return step["type"] == "Replace" and len(step["pattern"].get("String", "")) == 1 and len(step["content"]) == 1


def _only_splits(cuts: list[dict[str, Any]]) -> bool:
    return {step["type"] for step in cuts} <= {"Metaspace", "Split", "Digits", "Punctuation"}
