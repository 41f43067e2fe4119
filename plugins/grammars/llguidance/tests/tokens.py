"""Small tokenizers, and masks as lists of tokens."""

from __future__ import annotations

from functools import cache

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


@cache
def shared() -> tuple[Tokenizer, Backend, dict[str, int], dict[int, str]]:
    """What sequences do not change: the tokenizer, a backend, and the tokens' ids and texts."""
    tokenizer = letters()
    ids = tokenizer.get_vocab()
    return tokenizer, Backend(tokenizer, VOCAB_SIZE, [ids[END], ids[TURN]]), ids, {i: text for text, i in ids.items()}


class Follower:
    """One sequence, its tokens by their texts."""

    def __init__(self, kind: GrammarKind, text: str) -> None:
        self.tokenizer, backend, self.ids, self.texts = shared()
        self.state: GrammarState = backend.compile(GrammarSource(kind, text)).start()

    def accept(self, *tokens: str) -> bool:
        return all(self.state.accept(self.ids[token]) for token in tokens)

    def spelt(self, text: str) -> list[str]:
        """The tokens of a text, byte by byte."""
        byte_decoder = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
        return [character for piece, _ in byte_decoder for character in piece]

    def allowed(self) -> set[str]:
        return {self.texts[i] for i in allowed(self.state, VOCAB_SIZE)}


def allowed(state: GrammarState, vocab_size: int) -> list[int]:
    mask = np.full(-(-vocab_size // 32), -1, dtype=np.int32)
    state.fill_mask(mask)
    found: list[int] = np.unpackbits(mask.view(np.uint8), bitorder="little").nonzero()[0].tolist()
    return found
