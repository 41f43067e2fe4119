"""Following a list of texts, slowly and plainly: a token may follow if some text goes on with it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tokenizers
from dovetail.api import Grammar, GrammarBackend, GrammarSource, GrammarState, RequestError

from PLUGIN_MODULE.validation import choices_of


class PLUGIN_CLASSBackend(GrammarBackend):
    """See :class:`dovetail.api.GrammarBackend`."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        known = sorted(i for i in tokenizer.get_vocab().values() if i < vocab_size)
        # Special tokens decode to nothing, and parts of a character to U+FFFD: neither is the text of a choice.
        self.texts = {i: text for i in known if (text := tokenizer.decode([i])) and "\ufffd" not in text}
        self.ends = frozenset(eos_ids)
        self.tokenizer = tokenizer

    def compile(self, source: GrammarSource) -> Grammar:
        choices = choices_of(source)
        for text in choices:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            if "".join(self.texts.get(i, "") for i in ids) != text:
                raise RequestError(f"no whole tokens spell the choice {text!r}", param="structured_outputs")
        return Choices(choices, self.texts, self.ends)


class Choices(Grammar):
    """A list of texts, and how tokens spell them."""

    def __init__(self, choices: list[str], texts: dict[int, str], ends: frozenset[int]) -> None:
        self.choices = choices
        self.texts = texts
        self.ends = ends

    def start(self) -> GrammarState:
        return Place(self)


class Place(GrammarState):
    """The text so far, before each token."""

    def __init__(self, grammar: Choices) -> None:
        self.grammar = grammar
        self.history: list[str | None] = [""]
        """The text after each token; None after an end."""

    def accept(self, token: int) -> bool:
        if token not in self.allowed():
            return False
        text = self.history[-1]
        self.history.append(None if text is None or token in self.grammar.ends else text + self.grammar.texts[token])
        return True

    def rollback(self, count: int) -> None:
        del self.history[len(self.history) - count :]

    def fill_mask(self, mask: np.ndarray) -> None:
        flags = np.zeros(len(mask) * 32, dtype=np.uint8)
        flags[list(self.allowed())] = 1
        mask[:] = np.packbits(flags, bitorder="little").view("<i4")

    def allowed(self) -> set[int]:
        """The tokens that may follow."""
        text = self.history[-1]
        if text is None:
            return set(self.grammar.ends)
        rests = [choice[len(text) :] for choice in self.grammar.choices if choice.startswith(text)]
        found = {i for i, piece in self.grammar.texts.items() if any(rest.startswith(piece) for rest in rests)}
        return found | self.grammar.ends if "" in rests else found
