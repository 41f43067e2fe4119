"""Small tokenizers, and masks as lists of tokens."""

from __future__ import annotations

import numpy as np
from dovetail_grammars_llguidance.backend import Backend
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dovetail.api import GrammarKind, GrammarSource, GrammarState

VOCAB_SIZE = 300
"""More than the tokenizer has."""
END, TURN, CALL, CLOSE, SEPARATOR = "<end>", "<turn>", "<call>", "</call>", "[a/b▁c｜]"
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def letters() -> Tokenizer:
    """All bytes, ``ab``, and special tokens."""
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate([*ALPHABET, "ab"])}, [("a", "b")]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END, TURN, CALL, CLOSE, SEPARATOR])
    return tokenizer


class Follower:
    """One sequence, its tokens by their texts."""

    def __init__(self, kind: GrammarKind, text: str) -> None:
        self.tokenizer = letters()
        ends = [self.tokenizer.token_to_id(END), self.tokenizer.token_to_id(TURN)]
        self.backend = Backend(self.tokenizer, VOCAB_SIZE, ends)
        self.state: GrammarState = self.backend.compile(GrammarSource(kind, text)).start()

    def accept(self, *tokens: str) -> bool:
        return all(self.state.accept(self.tokenizer.token_to_id(token)) for token in tokens)

    def spelt(self, text: str) -> list[str]:
        """The tokens of a text, byte by byte."""
        byte_decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        return [character for piece, _ in byte_decoder for character in piece]

    def allowed(self) -> set[str]:
        return {self.tokenizer.id_to_token(i) for i in allowed(self.state, VOCAB_SIZE)}


def allowed(state: GrammarState, vocab_size: int) -> list[int]:
    mask = np.full(-(-vocab_size // 32), -1, dtype=np.int32)
    state.fill_mask(mask)
    return [i for i in range(32 * len(mask)) if mask[i // 32] >> i % 32 & 1]
