"""Conformance tests of grammar backends.

Every claimed kind is tested with valid and invalid texts, and with outputs sampled from the backend's own masks.

V: size of the logits' vocabulary.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dovetail.api import Grammar, GrammarBackend, GrammarCard, GrammarSource, GrammarState, RequestError
from dovetail.kernel.discovery import import_dotted
from dovetail.testing.comparison import label
from dovetail.testing.resolution import claim
from dovetail.testing.samples.grammars import SAMPLES, GrammarSample

MERGES = [
    ("t", "r"),
    ("tr", "u"),
    ("tru", "e"),
    ("y", "e"),
    ("ye", "s"),
    ("{", '"'),
    ('"', ":"),
    ('"', "}"),
    ("a", "b"),
    ("Ġ", "s"),
]
ENDS = ("<|end|>", "<|turn|>")
SPARE = 45
"""Number of ids after the tokenizer's, as logits often have."""
WALKS = 30
LIMIT = 400
"""Maximum number of tokens of a random walk."""


def check_grammar(card: GrammarCard, grammar: GrammarSample | None = None) -> None:
    """Check every claim of a grammar backend's card.

    For each kind of grammar:

    ``validate_source`` and ``compile`` accept valid sources and refuse invalid ones. Valid texts can be written, and
    end. Invalid texts cannot be written, and neither can unlimited white space. Outputs sampled from the masks are
    valid, and never come to a state in which no token is allowed. Schemas without a valid value are refused, already by
    ``validate_source``. A refused token and a rollback change nothing. End tokens are in the masks together, exactly
    where the output may end. Kinds that are not claimed are refused. A backend that tells the memory of its grammars
    (``num_bytes``) tells more for a thousand texts than for one.

    Args:
        grammar: a grammar in the backend's own notation, for backends that claim the kind ``grammar``.

    Raises:
        AssertionError: names the claim that failed.
    """
    samples = [*SAMPLES, *([grammar] if grammar else [])]
    assert set(card.kinds) <= {sample.source.kind for sample in samples}, (
        f"{label(card)} claims grammars in a notation of its own: give check_grammar one"
    )
    tokenizer = small_tokenizer()
    vocab_size = tokenizer.get_vocab_size() + SPARE
    ends = [id for text in ENDS if (id := tokenizer.token_to_id(text)) is not None]
    with claim(f"{label(card)}: making the backend"):
        backend: GrammarBackend = import_dotted(card.target)(tokenizer, vocab_size, ends)
    validate: Callable[[GrammarSource], None] = import_dotted(card.validate_source)
    for sample in samples:
        kind = sample.source.kind
        if kind not in card.kinds:
            _refuses(f"{label(card)} does not claim {kind}", backend.compile, sample.source)
            continue
        text = f"{label(card)} claims {kind}"
        for broken in sample.broken:
            _refuses(text, validate, GrammarSource(kind, broken))
            _refuses(text, backend.compile, GrammarSource(kind, broken))
        with claim(text):
            validate(sample.source)
            with ThreadPoolExecutor(4) as pool:
                first, *_ = pool.map(backend.compile, [sample.source] * 4)
            _Case(text, tokenizer, vocab_size, ends, first).check(sample)
    if "choice" in card.kinds:
        _check_num_bytes(label(card), backend)


def small_tokenizer() -> Tokenizer:
    """A byte-level tokenizer with all bytes, a few merges and two end-of-sequence tokens."""
    vocabulary = {token: i for i, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for merge in MERGES:
        vocabulary["".join(merge)] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(ENDS))
    return tokenizer


def _check_num_bytes(text: str, backend: GrammarBackend) -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abc", k=40)) for _ in range(1000)]
    sizes = []
    for choices in (texts[:1], texts):
        with claim(text):
            grammar = backend.compile(GrammarSource("choice", json.dumps(choices)))
            sizes.append(grammar.num_bytes)
    if sizes == [None, None]:
        return
    one, all_of_them = sizes
    told = f"{text}: num_bytes is {one} for a text and {all_of_them} for a thousand"
    assert one is not None, told
    assert all_of_them is not None, told
    assert 0 <= one < all_of_them, told


def _refuses(text: str, action: Callable[[GrammarSource], Any], source: GrammarSource) -> None:
    what = f"{text}: {source.kind} {source.text[:60]!r}"
    refused: Exception | None = None
    try:
        action(source)
    except Exception as error:
        refused = error
    assert refused is not None, f"{what} is not refused"
    found = f"{type(refused).__name__}: {refused}"
    assert isinstance(refused, RequestError), f"{what} raises {found}, wanted a RequestError"
    assert refused.param == "structured_outputs", f"{what} is refused with the parameter {refused.param!r}"


@dataclass
class _Case:
    """One compiled grammar under test."""

    text: str
    tokenizer: Tokenizer
    vocab_size: int
    ends: list[int]
    grammar: Grammar

    def check(self, sample: GrammarSample) -> None:
        for output in sample.good:
            assert self.can_write(output), f"{self.text}: {output!r} has the form, but cannot be written"
        for output in sample.bad:
            assert not self.can_write(output), f"{self.text}: {output!r} has not the form, but can be written"
        ended = 0
        for seed in range(WALKS):
            drawn = self.walk(random.Random(seed))
            if drawn is not None:
                ended += 1
                assert sample.matches(drawn), f"{self.text}: the masks allow {drawn!r}, which has not the form"
        assert ended, f"{self.text}: none of {WALKS} outputs drawn from the masks came to an end in {LIMIT} tokens"

    def allowed(self, state: GrammarState) -> list[int]:
        """The tokens of a mask. All of them must exist."""
        mask = np.full(-(-self.vocab_size // 32), -1, dtype=np.int32)
        state.fill_mask(mask)
        found = np.flatnonzero(np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")).tolist()
        size = self.tokenizer.get_vocab_size()
        assert found, f"{self.text}: a mask allows nothing"
        assert found[-1] < size, f"{self.text}: a mask allows the id {found[-1]}, and the tokenizer ends at {size - 1}"
        both = sum(end in found for end in self.ends)
        assert both in (0, len(self.ends)), f"{self.text}: a mask has some of the end tokens, and not all"
        return list(map(int, found))

    def can_write(self, output: str) -> bool:
        """Whether an output can be written. Masks and ``accept`` must agree."""
        state = self.grammar.start()
        ids = self.tokenizer.encode(output, add_special_tokens=False).ids
        for count, token in enumerate([*ids, self.ends[-1]]):
            allowed = token in self.allowed(state)
            accepted = state.accept(token)
            assert accepted == allowed, (
                f"{self.text}: accept() says {accepted} of a token of {output!r}, the mask {allowed}"
            )
            if not accepted:
                assert state.accept(token) is False, f"{self.text}: a token of {output!r} is allowed the second time"
                state.rollback(count)
                return False
        assert set(self.allowed(state)) == set(self.ends), f"{self.text}: after its end, {output!r} goes on"
        return True

    def walk(self, rng: random.Random) -> str | None:
        """An output sampled from the masks; None if it did not end."""
        state = self.grammar.start()
        tokens: list[int] = []
        masks = [self.allowed(state)]
        while len(tokens) < LIMIT:
            token = self.draw(masks[-1], rng)
            self.check_rejects(state, masks[-1], rng)
            assert state.accept(token), f"{self.text}: a token of the mask is not accepted"
            tokens.append(token)
            if token in self.ends:
                break
            masks.append(self.allowed(state))
            self.check_rollback(state, tokens, masks, rng)
        if tokens[-1] not in self.ends:
            return None
        return str(self.tokenizer.decode(tokens))

    def draw(self, allowed: list[int], rng: random.Random) -> int:
        """A random token; half of the time one that may bring the output nearer to its end."""
        pieces = {token: str(self.tokenizer.id_to_token(token)) for token in allowed}
        closing = [token for token, piece in pieces.items() if token in self.ends or piece in ("}", "]", '"', '"}')]
        solid = [token for token, piece in pieces.items() if piece not in ("Ġ", "Ċ", "č", "ĉ")]
        if closing and rng.random() < 0.5:
            return rng.choice(closing)
        return rng.choice(solid or allowed)

    def check_rejects(self, state: GrammarState, allowed: list[int], rng: random.Random) -> None:
        wrong = sorted(set(range(self.vocab_size)) - set(allowed))
        for token in rng.sample(wrong, min(3, len(wrong))):
            if state.accept(token):  # another spelling of what must follow
                state.rollback(1)
        assert self.allowed(state) == allowed, f"{self.text}: a token that is refused changes the mask"

    def check_rollback(
        self, state: GrammarState, tokens: list[int], masks: list[list[int]], rng: random.Random
    ) -> None:
        count = rng.randint(0, min(3, len(tokens)))
        state.rollback(count)
        assert self.allowed(state) == masks[len(tokens) - count], f"{self.text}: rollback({count}) leads elsewhere"
        for token in tokens[len(tokens) - count :]:
            assert state.accept(token), f"{self.text}: after a rollback, a token is no longer accepted"
