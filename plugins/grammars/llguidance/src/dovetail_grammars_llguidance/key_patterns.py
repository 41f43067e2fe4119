"""Lists the texts that an expression matches, if there are few.

If a pattern matches only names that are also listed as properties, no name is left for the pattern, and a model that
starts another property has no allowed token. Listed names avoid such a state.
"""

from __future__ import annotations

import json
from functools import cache

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

MAX_STEPS = 2_000
END = 256


class _Bytes:
    """A tokenizer of single bytes and an end token."""

    eos_token_id = END
    bos_token_id = None
    tokens = [*(bytes([i]) for i in range(256)), b"<end>"]
    special_token_ids = [END]

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


@cache
def _tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_Bytes()), slices=[])


def matches(pattern: str, most: int) -> list[str] | None:
    """All texts that an expression matches; None if there are more than ``most``, or they cannot be listed."""
    if not pattern.endswith("$") or not pattern.startswith(("^", "(")):
        return None  # anything may stand before or after it
    schema = {"type": "string", "pattern": pattern}
    matcher = LLMatcher(_tokenizer(), LLMatcher.grammar_from_json_schema(json.dumps(schema)), log_level=0)
    found: list[str] = []
    todo: list[tuple[LLMatcher, bytes]] = [(matcher, b"")]
    for _ in range(MAX_STEPS):
        if not todo:
            return found
        at, text = todo.pop()
        bits = np.unpackbits(np.frombuffer(at.compute_bitmask(), dtype=np.uint8), bitorder="little")
        if at.is_error():
            return None
        for token in np.flatnonzero(bits[: END + 1]).tolist():
            if token == END:
                found.append(json.loads(text))
                if len(found) > most:
                    return None
                continue
            after = at.deep_copy()
            if after.consume_token(token):
                todo.append((after, text + bytes([token])))
    return None
