"""Conformance tests of proposers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from dovetail.api import DraftRequest, Proposer, ProposerCard, ProposerContext, UsageError
from dovetail.kernel.blame import check_class
from dovetail.kernel.discovery import import_dotted
from dovetail.kernel.speculation import read_options
from dovetail.testing.comparison import label
from dovetail.testing.resolution import claim, make_registry, part_of, refusal_message

UNKNOWN = "no_such_option"


def check_proposer(
    card: ProposerCard, proposer: Proposer | None = None, *, vocab_size: int = 64, max_seqs: int = 8, **options: Any
) -> None:
    """Check a proposer's card and interface.

    Checks that unknown options are refused by name. With sequences that start, grow, pause and end as in an engine, it
    checks that every result has one draft for each sequence, of at most the requested length, with ids of the
    vocabulary, and that the sequences are not changed.

    Args:
        proposer: an instance, if it needs more than options (a draft model); otherwise one is made from the card.
        vocab_size: of the sequences' tokens.
        max_seqs: sequences at once.
        options: of ``--speculative-config``.

    Raises:
        AssertionError: names the claim that failed.
    """
    (offer,) = make_registry(card).offers(ProposerCard)
    with claim(f"{label(card)}: reading its options"):
        text = refusal_message(lambda: read_options(offer, {**options, UNKNOWN: 1}), UsageError)
    assert text is not None, (
        f"{label(card)}: its config {card.config} takes an unknown option; let it forbid extra fields"
    )
    assert UNKNOWN in text, f"{label(card)}: the refusal of an unknown option does not name it: {text}"
    with claim(f"{label(card)}: reading its options"):
        config = read_options(offer, options)
    if proposer is None:
        with claim(f"{label(card)}: making it"):
            made = import_dotted(card.target)
            check_class(part_of(card), card.target, made, Proposer)
            proposer = made(config, ProposerContext(vocab_size, max_seqs, card.num_tokens))
    assert isinstance(proposer, Proposer), f"{label(card)}: its target is not a dovetail.api.Proposer"
    _exercise(card, proposer, vocab_size, max_seqs)


def _exercise(card: ProposerCard, proposer: Proposer, vocab_size: int, max_seqs: int) -> None:
    rng = random.Random(0)
    running: dict[str, list[int]] = {}
    with claim(f"{label(card)}: forgetting a sequence that it never saw"):
        proposer.forget(["never-seen"])
    for step in range(200):
        if len(running) < max_seqs and rng.random() < 0.3:
            # Names come back: a new sequence may bear one that was forgotten.
            free = next(name for name in map(str, range(max_seqs)) if name not in running)
            running[free] = _tokens(rng, rng.choice([1, 2, 30]), vocab_size)
        requested = [name for name in running if rng.random() < 0.8]
        if requested:
            _check_proposals(card, proposer, running, requested, rng, vocab_size, step)
        for name in list(running):
            running[name] += _tokens(rng, rng.choice([0, 1, 1, 2, 5]), vocab_size)
            if len(running[name]) > 60 or rng.random() < 0.03:
                del running[name]
                with claim(f"{label(card)}: forgetting a sequence"):
                    proposer.forget([name])


def _tokens(rng: random.Random, count: int, vocab_size: int) -> list[int]:
    """Tokens with few different values, so that many repeat."""
    few = min(4, vocab_size)
    return [vocab_size - 1 - rng.randrange(few) for _ in range(count)]


def _check_proposals(
    card: ProposerCard,
    proposer: Proposer,
    running: dict[str, list[int]],
    requested: Sequence[str],
    rng: random.Random,
    vocab_size: int,
    step: int,
) -> None:
    sequences = [DraftRequest(name, list(running[name]), rng.randint(1, card.num_tokens)) for name in requested]
    where = f"{label(card)}: call {step} with {len(sequences)} sequences"
    with claim(where):
        guesses = proposer.propose(sequences)
    assert len(guesses) == len(sequences), f"{where}: {len(guesses)} guesses"
    for sequence, guess in zip(sequences, guesses, strict=True):
        assert sequence.tokens == running[sequence.id], f"{where}: a sequence's tokens were changed"
        assert len(guess) <= sequence.max_tokens, (
            f"{where}: {len(guess)} tokens guessed, {sequence.max_tokens} were asked for"
        )
        for token in guess:
            assert isinstance(token, int), f"{where}: {token!r} was guessed, wanted a whole number"
            assert 0 <= token < vocab_size, f"{where}: token {token} is out of the vocabulary of {vocab_size}"
