"""The backend: compiles grammars for one tokenizer, and tracks the state of each sequence.

V: size of the logits' vocabulary.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import tokenizers
from llguidance import LLMatcher, LLTokenizer

from dovetail.api import Grammar, GrammarBackend, GrammarSource, GrammarState, RequestError
from dovetail_grammars_llguidance.deep_stack import run_on_deep_stack
from dovetail_grammars_llguidance.errors import PARAM, grammar_error
from dovetail_grammars_llguidance.memory import measure
from dovetail_grammars_llguidance.messages import shorten_message
from dovetail_grammars_llguidance.nodes import Piece
from dovetail_grammars_llguidance.panics import panics_as_errors
from dovetail_grammars_llguidance.sources import to_grammar
from dovetail_grammars_llguidance.validation import MAX_LEXER_STATES, hint, limits

LIMIT_S = 60.0
MAX_GRAMMAR_BYTES = 64 << 20
"""Most memory of one compiled grammar, before its use."""
MAX_STATE_BYTES = 64 << 20
"""Most memory of the state of one sequence. It grows with each token, most where many rules could apply."""
STATE_CHECK_TOKENS = 256
"""Tokens between two measurements of a state, which is copied for it."""
LEXER_STATE_BYTES = 1_200
"""Memory of one state of a lexer, measured on expressions over large alphabets."""
GROWTH_BYTES_PER_S = 70e6
"""How fast a lexer grows at most, measured on the same expressions; slower machines are slower."""
QUICK_MASK_S = 5e-4
"""A mask that takes no longer than this was looked up, or nearly."""
NO_TOKEN = "NoExtension"
"""Beginning of llguidance's message for a state in which the grammar does not end and no token is allowed."""


class Backend(GrammarBackend):
    """See :class:`dovetail.api.GrammarBackend`.

    Raises:
        RequestError: no output can end, or llguidance does not support the vocabulary.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> None:
        ids = tokenizer.get_vocab(with_added_tokens=True)
        added = tokenizer.get_added_tokens_decoder()
        size = max(vocab_size, max(ids.values(), default=0) + 1)
        ends = sorted({i for i in eos_ids if 0 <= i < vocab_size})
        if not ends:
            raise RequestError(
                "the model has no end-of-sequence token, without which structured output cannot end",
                "ask for text without a form, or give the tokenizer such a token",
                param=PARAM,
            )
        try:
            self._tokenizer = LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends)
        except ValueError as error:
            raise RequestError(
                f"llguidance cannot spell the tokens of the model's tokenizer ({shorten_message(str(error))})",
                "ask for text without a form, or use another backend",
                param=PARAM,
            ) from None
        self._ids = ids
        self._special = _any_of([token.content for id, token in added.items() if self._tokenizer.is_special_token(id)])
        self._vocabulary = Vocabulary(size, vocab_size, [*ids.values()], frozenset(ends))

    def compile(self, source: GrammarSource) -> Grammar:
        grammar = to_grammar(source, self._split).grammar

        def build() -> LLMatcher:
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits())
            if not matcher.is_error():
                matcher.compute_bitmask()  # finds forms that nothing has, and builds the first states for all who follow
            return matcher

        matcher, num_bytes = run_on_deep_stack(lambda: measure(build), LIMIT_S, PARAM)
        if message := str(matcher.get_error()):
            if message.startswith(NO_TOKEN):
                raise grammar_error(source, "no text that the model's vocabulary can spell has this form")
            message = shorten_message(message, source.kind)
            raise grammar_error(source, message, hint(message))
        if num_bytes > MAX_GRAMMAR_BYTES:
            problem = f"compiled it takes {num_bytes >> 20} MiB, more than the limit of {MAX_GRAMMAR_BYTES >> 20} MiB"
            raise grammar_error(source, problem, "make it simpler or smaller")
        _, state_bytes = measure(matcher.deep_copy)
        return CompiledGrammar(matcher, self._vocabulary, num_bytes, state_bytes)

    def _split(self, text: str) -> list[Piece]:
        """Split a text at its special tokens, which are not text for the grammar."""
        found = self._special.split(text)  # texts and special ones in turn
        return [Piece(part, self._ids[part] if place % 2 else None) for place, part in enumerate(found) if part]


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    """An expression that captures any of some texts, longest match first."""
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})" if texts else "((?!))")


class Vocabulary:
    """The ids of the vocabulary.

    Args:
        size: of llguidance's masks, at least V.
        vocab_size: V.
        ids: of the tokenizer.
        ends: end-of-sequence ids.
    """

    def __init__(self, size: int, vocab_size: int, ids: Sequence[int], ends: frozenset[int]) -> None:
        self.size = size
        self.words = -(-size // 32)
        self.known = _bits(self.words, [i for i in ids if i < vocab_size])
        self.ends_mask = _bits(self.words, [*ends])
        self.ends = ends


def _bits(words: int, ids: Sequence[int]) -> np.ndarray:
    """A mask of these ids, int32 ``[words]``."""
    flags = np.zeros(words * 32, dtype=np.uint8)
    flags[list(ids)] = 1
    return np.packbits(flags, bitorder="little").view("<i4").astype(np.int32)


class CompiledGrammar(Grammar):
    """A matcher in its initial state, copied for each sequence; the copies share its lexer.

    Args:
        num_bytes: measured before its use.
        state_bytes: of one copy.
    """

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, num_bytes: int, state_bytes: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._fixed_bytes = num_bytes
        self._state_bytes = state_bytes
        self._slow_s = 0.0
        self._states: weakref.WeakSet[State] = weakref.WeakSet()

    def start(self) -> GrammarState:
        with panics_as_errors():
            state = State(self, self._matcher.deep_copy(), self._vocabulary, self._state_bytes)
        self._states.add(state)
        return state

    @property
    def num_bytes(self) -> int:
        """What was measured when it was compiled, the states, and what its lexer may have grown by since: new states
        take time, and their number is limited.
        """
        grown = min(self._slow_s * GROWTH_BYTES_PER_S, MAX_LEXER_STATES * LEXER_STATE_BYTES)
        return self._fixed_bytes + int(grown) + sum(state.num_bytes for state in list(self._states))

    @contextmanager
    def lexing(self) -> Iterator[None]:
        """Around everything that may add states to the lexer."""
        started = time.thread_time()
        try:
            with panics_as_errors():
                yield
        finally:
            self._slow_s += max(time.thread_time() - started - QUICK_MASK_S, 0.0)


class State(GrammarState):
    """A matcher, and the number of end tokens after its match.

    End tokens are counted here. The matcher accepts any number of them after the first one without counting, so it
    could not roll them back.

    Attributes:
        num_bytes: as it was measured last.
    """

    def __init__(self, grammar: CompiledGrammar, matcher: LLMatcher, vocabulary: Vocabulary, num_bytes: int) -> None:
        self._grammar = grammar
        self._matcher = matcher
        self._vocabulary = vocabulary
        self._ends = 0
        self._full = np.empty(vocabulary.words, dtype=np.int32)
        self.num_bytes = num_bytes
        self._unmeasured_tokens = 0

    def accept(self, token: int) -> bool:
        if token in self._vocabulary.ends and (self._ends or self._matcher.is_accepting()):
            self._ends += 1
            return True
        if self._ends or not 0 <= token < self._vocabulary.size:
            return False
        with self._grammar.lexing():
            if token in self._vocabulary.ends:  # the grammar may contain it as a token, which only the mask shows
                accepted = self._is_known_token(token) and self._matcher.consume_token(token)
            else:
                accepted = self._matcher.try_consume_tokens([token]) == 1
        self._check()
        self._unmeasured_tokens += 1
        if self._unmeasured_tokens >= STATE_CHECK_TOKENS:
            self._measure()
        return bool(accepted)

    def _measure(self) -> None:
        """Measure the state by a copy of it.

        Raises:
            RequestError: it is too large.
        """
        self._unmeasured_tokens = 0
        # The smaller of two, because other threads allocate, too.
        self.num_bytes = min(measure(self._matcher.deep_copy)[1] for _ in range(2))
        if self.num_bytes > MAX_STATE_BYTES:
            raise RequestError(
                f"the output cannot go on in its form: its parse takes {self.num_bytes >> 20} MiB, more than the limit of {MAX_STATE_BYTES >> 20} MiB",
                "make the grammar less ambiguous, or the output shorter",
                param=PARAM,
            )

    def _is_known_token(self, token: int) -> bool:
        self._matcher.unsafe_compute_mask_ptr(self._full.ctypes.data, self._full.nbytes)
        return bool(self._full[token // 32] >> token % 32 & 1)

    def rollback(self, count: int) -> None:
        ends = min(count, self._ends)
        self._ends -= ends
        with panics_as_errors():
            done = count == ends or self._matcher.rollback(count - ends)
        if not done:
            raise ValueError(f"cannot take back {count} tokens: {shorten_message(str(self._matcher.get_error()))}")

    def fill_mask(self, mask: np.ndarray) -> None:
        words = len(mask)
        if self._ends:
            mask[:] = self._vocabulary.ends_mask[:words]
            return
        full = self._full
        with self._grammar.lexing():
            self._matcher.unsafe_compute_mask_ptr(full.ctypes.data, full.nbytes)
        self._check()
        np.bitwise_and(full[:words], self._vocabulary.known[:words], out=mask)
        if not mask.any():
            raise dead_end_error()

    def _check(self) -> None:
        """Raise if the matcher has failed. A token that is not allowed is not a failure; exceeding the parser's
        limits is, and is permanent.
        """
        if not self._matcher.is_error():
            return
        message = str(self._matcher.get_error())
        if message.startswith(NO_TOKEN):
            raise dead_end_error()
        raise RequestError(
            f"the output cannot go on in its form: {shorten_message(message)}", "make the grammar simpler", param=PARAM
        )


def dead_end_error() -> RequestError:
    return RequestError(
        "the output cannot go on in its form: the model's vocabulary has no token for what must follow",
        "change the form",
        param=PARAM,
    )
