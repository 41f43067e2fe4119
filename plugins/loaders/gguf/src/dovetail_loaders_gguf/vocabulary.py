"""The vocabulary in a GGUF file's metadata, with defaults filled in, and its values checked.

Keys: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#ggml.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from dovetail.api import CheckpointError
from dovetail_loaders_gguf.cursor import StringArray
from dovetail_loaders_gguf.header import Header

PREFIX = "tokenizer.ggml."
MAX_TOKEN, MAX_CHARACTERS = 2**12, 2**23
"""Most characters of a token, and of all tokens. Published vocabularies have tokens of up to some hundreds, and two
million in all.
"""
COMPLETE = "name a file or folder with a complete tokenizer with --tokenizer"

NAMED_IDS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # spelled so in the format
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}
"""Name in chat templates → name in the metadata, without ``tokenizer.ggml.`` and ``_token_id``."""


class Vocabulary:
    """The tokenizer's metadata.

    Raises:
        CheckpointError: there are no tokens, or a token is absurdly long. All methods raise it for values of the wrong
            type.
    """

    def __init__(self, header: Header) -> None:
        self.header = header
        self.path = header.path
        self.model = self.text_of("model") or ""
        self.tokens = _make_unique(self._read_tokens())
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.types: Sequence[int] = self._for_each_token("token_type", (int,)) or ()

    def get(self, key: str) -> Any:
        return self.header.metadata.get(f"{PREFIX}{key}")

    def refuse(self, key: str, wanted: str) -> NoReturn:
        self.header.refuse(f"{PREFIX}{key}", wanted)

    def text_of(self, key: str) -> str | None:
        return self.header.text(f"{PREFIX}{key}")

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, (bool, int)):
            self.refuse(key, "true or false")
        return bool(value)

    def texts(self, key: str) -> StringArray:
        """A required list of texts."""
        value = self._require(key)
        if not isinstance(value, StringArray):
            self.refuse(key, "a list of texts")
        return value

    def scores(self) -> Sequence[float]:
        """A required list with a number for each token."""
        self._require("scores")
        found: Sequence[float] = self._for_each_token("scores", (int, float)) or ()
        if not all(map(math.isfinite, found)):
            self.refuse("scores", "numbers, neither infinite nor NaN")
        return found

    def octets(self, key: str) -> bytes:
        """A list of bytes; empty if there is none."""
        value = self.get(key)
        if value is None:
            return b""
        if not isinstance(value, tuple) or not all(type(n) is int and -128 <= n < 256 for n in value):
            self.refuse(key, "a list of bytes")
        return bytes(n & 0xFF for n in value)

    def named_id(self, name: str) -> int | None:
        """The id of a special token by its name, if the file has it."""
        found = self.get(f"{NAMED_IDS[name]}_token_id")
        return found if type(found) is int and 0 <= found < len(self.tokens) else None

    def text(self, name: str) -> str | None:
        found = self.named_id(name)
        return None if found is None else self.tokens[found]

    def _require(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"{self.path} lacks the metadata entry {PREFIX}{key}", COMPLETE)
        return value

    def _for_each_token(self, key: str, types: tuple[type, ...]) -> Any:
        value = self.get(key)
        if value is not None and not (
            isinstance(value, tuple) and len(value) == len(self.tokens) and all(type(n) in types for n in value)
        ):
            self.refuse(key, f"a list of {len(self.tokens)} numbers, one for each token")
        return value

    def _read_tokens(self) -> list[str]:
        tokens = list(self.texts("tokens"))
        if not tokens:
            self.refuse("tokens", "at least one text")
        longest, total = max(map(len, tokens)), sum(map(len, tokens))
        if longest > MAX_TOKEN or total > MAX_CHARACTERS:
            raise CheckpointError(
                f"{PREFIX}tokens in {self.path} has {total} characters, in one token {longest}; wanted at most "
                f"{MAX_CHARACTERS}, in one token {MAX_TOKEN}",
                COMPLETE,
            )
        return tokens


def _make_unique(tokens: Iterable[str]) -> list[str]:
    """Make all tokens unique, because an index can only be looked up by its text."""
    seen: set[str] = set()
    unique: list[str] = []
    for i, token in enumerate(tokens):
        if not token or token in seen:
            token = f"[EMPTY_{i}]" if not token else f"[DUPLICATE_{i}]"
        seen.add(token)
        unique.append(token)
    return unique
