"""Detokenization: token ids to text, whole or incrementally.

Tokens are pieces of bytes, not of text: a character may consist of several tokens. Vocabularies with byte-level BPE or
with byte fallback (nearly all language models) define the exact bytes of each token, and the text is those bytes
decoded as UTF-8. In other vocabularies the text of a token may depend on the one before, so a window of ids is decoded.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import tokenizers

CONTEXT_TOKENS = 6
"""Number of ids before the undecoded ones in a window."""
MAX_PENDING_TOKENS = 12
"""Maximum number of ids in a window that wait for the rest of a character. A character has at most four bytes."""


def byte_alphabet() -> dict[str, int]:
    """The character for each byte in byte-level BPE vocabularies.

    Printable bytes are themselves; the others are the characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = byte_alphabet()


class ByteDecoder:
    """The bytes of a vocabulary's tokens.

    Args:
        byte_level: tokens use the byte alphabet; otherwise single bytes are tokens such as ``<0x0A>``.
        space: the character for a space in tokens, without ``byte_level``.
        strip: number of spaces that are removed from the start of a text.
    """

    def __init__(self, *, byte_level: bool = False, space: str = "", strip: int = 0) -> None:
        self.byte_level = byte_level
        self.space = space
        self.strip = strip

    def token_to_bytes(self, token: str) -> bytes:
        if self.byte_level:
            try:
                return bytes([_ALPHABET[character] for character in token])
            except KeyError:  # an added token, which is written as it is
                return token.encode()
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes.fromhex(token[3:5])
            except ValueError:
                pass
        return (token.replace(self.space, " ") if self.space else token).encode()

    @classmethod
    def from_backend(cls, backend: tokenizers.Tokenizer) -> ByteDecoder | None:
        """The byte decoder that is equivalent to a tokenizer's decoder, or None if there is none."""
        if backend.decoder is None:
            return None
        state: dict[str, Any] = json.loads(backend.decoder.__getstate__())
        if state["type"] == "ByteLevel":
            return cls(byte_level=True)
        steps = state.get("decoders", [state]) if state["type"] == "Sequence" else [state]
        space, strip, bytes_seen = "", 0, False
        for step in steps:
            kind = step["type"]
            if kind == "Replace" and not (bytes_seen or space) and step["content"] == " ":
                space = step["pattern"].get("String", "")
                if not space:
                    return None
            elif kind == "ByteFallback":
                bytes_seen = True
            elif kind == "Strip" and bytes_seen and step["content"] == " " and not step["stop"]:
                strip = step["start"]
            elif kind != "Fuse":
                return None
        return cls(space=space, strip=strip) if bytes_seen else None


class TokenSpellings(Protocol):
    """What a detokenizer needs from a tokenizer."""

    backend: tokenizers.Tokenizer
    byte_decoder: ByteDecoder | None
    special_ids: frozenset[int]

    def id_to_token(self, id: int) -> str | None: ...

    def token_bytes(self, id: int) -> bytes: ...


class IncrementalDetokenizer:
    """Converts ids to text as they arrive.

    The pieces together are the text of all ids. No piece holds half a character, and text is never retracted: invalid
    UTF-8 becomes U+FFFD as soon as that is certain. The time per id does not depend on the number of earlier ids.

    Args:
        skip_special_tokens: leave special tokens out.
        prompt_ids: the prompt's ids. The text then continues the prompt's, so a space at its start is kept.
        shown: special tokens that are not left out.
    """

    def __init__(
        self,
        tokenizer: TokenSpellings,
        skip_special_tokens: bool = True,
        prompt_ids: Sequence[int] = (),
        shown: Sequence[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped_ids = tokenizer.special_ids if skip_special_tokens else frozenset[int]()
        if shown:
            self._skipped_ids = self._skipped_ids.difference(shown)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._decodes_bytes = tokenizer.byte_decoder is not None
        self._strip = tokenizer.byte_decoder.strip if tokenizer.byte_decoder else 0
        self._context: list[int] = []
        self._pending: list[int] = []
        # Only the prompt's end matters: how it ends in the middle of a character, or whether it is there at all.
        recent = [i for i in prompt_ids[-4 * CONTEXT_TOKENS :] if i not in self._skipped_ids]
        tail = [i for i in recent if tokenizer.id_to_token(i) is not None][-CONTEXT_TOKENS:]
        if tail:
            self._strip = 0
            if tokenizer.byte_decoder:
                self._utf8.decode(b"".join(map(tokenizer.token_bytes, tail)))
            else:
                self._context = tail

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain with these ids; often empty."""
        if len(ids) == 1 and self._decodes_bytes:  # nearly always, so it takes the shortest way
            text = "" if ids[0] in self._skipped_ids else self._utf8.decode(self._tokenizer.token_bytes(ids[0]))
            return self._strip_leading_spaces(text) if self._strip else text
        kept = [i for i in ids if i not in self._skipped_ids]
        if not self._decodes_bytes:
            # Ids without a token are nothing, and must not push the ones before them out of the window.
            self._pending += [i for i in kept if self._tokenizer.id_to_token(i) is not None]
            return self._decode_window(final=False)
        return self._strip_leading_spaces(self._utf8.decode(b"".join(map(self._tokenizer.token_bytes, kept))))

    def flush(self) -> str:
        """The text that was held back, after the last id."""
        if self._tokenizer.byte_decoder is None:
            return self._decode_window(final=True)
        return self._strip_leading_spaces(self._utf8.decode(b"", True))

    def _strip_leading_spaces(self, text: str) -> str:
        if self._strip and text:
            stripped = text.lstrip(" ")
            spaces = min(len(text) - len(stripped), self._strip)
            # Anything but a space ends the start of the text.
            self._strip = self._strip - spaces if not stripped else 0
            return text[spaces:]
        return text

    def _decode_window(self, *, final: bool) -> str:
        if not self._pending:
            return ""
        decode = self._tokenizer.backend.decode
        before = decode(self._context, skip_special_tokens=False)
        text = decode(self._context + self._pending, skip_special_tokens=False)
        incomplete = text.endswith("\ufffd") or not text.startswith(before)
        if incomplete and not final and len(self._pending) < MAX_PENDING_TOKENS:
            return ""
        self._context = (self._context + self._pending)[-CONTEXT_TOKENS:]
        self._pending = []
        return text[len(before) :]
