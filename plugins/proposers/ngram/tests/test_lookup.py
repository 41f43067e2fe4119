"""Prompt lookup against a plain scan of the whole sequence."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import dovetail_proposers_ngram
import pytest
from dovetail_proposers_ngram.config import LookupConfig
from dovetail_proposers_ngram.index import CHAIN, NOWHERE, NgramIndex
from dovetail_proposers_ngram.lookup import PromptLookup, follow

from dovetail.api import DraftRequest, ProposerContext
from dovetail.testing import check_proposer, check_registration

(CARD,) = dovetail_proposers_ngram.dovetail_register_proposers()
CONTEXT = ProposerContext(vocab_size=100, max_seqs=4, num_tokens=4)


def scan(tokens: Sequence[int], shortest: int, longest: int) -> int:
    """The place behind the best earlier occurrence of the end, by looking at the latest :data:`CHAIN` of them."""
    found, best, seen = NOWHERE, 0, 0
    for place in range(len(tokens) - 1, shortest - 1, -1):
        length = 0
        while length < min(longest, place) and tokens[place - 1 - length] == tokens[-1 - length]:
            length += 1
        if length >= shortest and seen < CHAIN:
            seen += 1
            if length > best:
                found, best = place, length
    return found


def proposer(**options: int) -> PromptLookup:
    return PromptLookup(LookupConfig(**options), CONTEXT)


def guess(tokens: Sequence[int], max_tokens: int = 4, **options: int) -> list[int]:
    (found,) = proposer(**options).propose([DraftRequest("a", tokens, max_tokens)])
    return found


def test_registration() -> None:
    check_registration(dovetail_proposers_ngram)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 5), (2, 4), (3, 3)])
def test_every_claim(low: int, high: int) -> None:
    check_proposer(CARD, prompt_lookup_min=low, prompt_lookup_max=high)


@pytest.mark.parametrize("different", [2, 5, 10])
@pytest.mark.parametrize(("shortest", "longest"), [(1, 1), (1, 4), (2, 2), (2, 5), (3, 4)])
def test_the_index_finds_what_a_scan_finds(different: int, shortest: int, longest: int) -> None:
    rng = random.Random(different * 100 + longest)
    index, tokens = NgramIndex(shortest, longest), []
    found = 0
    while len(tokens) < 400:
        tokens += [rng.randrange(different) for _ in range(rng.choice([1, 1, 1, 2, 7]))]
        index.extend(tokens)
        place = index.find(tokens)
        assert place == scan(tokens, shortest, longest)
        found += place != NOWHERE
    assert found > 0


@pytest.mark.parametrize("shortest", [1, 2, 3])
def test_a_long_sequence_is_known_by_its_newest_tokens(shortest: int) -> None:
    rng = random.Random(1)
    window = 50
    index, tokens, max_tokens = NgramIndex(shortest, 4, window), [], 0
    for _ in range(600):
        tokens += [rng.randrange(6) for _ in range(rng.choice([1, 1, 2, 60]))]
        index.extend(tokens)
        place = index.find(tokens)
        known = index._first
        assert len(tokens) - 2 * window <= known <= max(0, len(tokens) - window)
        wanted = scan(tokens[known:], shortest, 4)
        assert place == (wanted + known if wanted != NOWHERE else NOWHERE)
        max_tokens = max(max_tokens, len(index._before), len(index._last))
    assert max_tokens <= 2 * window


def test_what_followed_before_follows_again() -> None:
    assert guess([1, 2, 3, 4, 5, 6, 7, 8, 2, 3]) == [4, 5, 6, 7]
    assert guess([1, 2, 3, 4, 5, 6, 7, 8, 2, 3], max_tokens=2) == [4, 5]
    assert guess([1, 2, 3, 4, 5]) == []
    assert guess([1]) == []
    assert guess([1, 2, 9, 2]) == []  # one equal token is not enough
    assert guess([1, 2, 9, 2], max_tokens=2, prompt_lookup_min=1) == [9, 2]


def test_the_longest_match_wins_and_then_the_latest() -> None:
    head = [1, 2, 3, 50, 2, 3, 60, 2, 3, 70]
    assert guess([*head, 1, 2, 3], max_tokens=1) == [50]
    assert guess([*head, 9, 2, 3], max_tokens=1) == [70]
    assert guess([*head, 1, 2, 3], max_tokens=1, prompt_lookup_max=2) == [70]


def test_a_loop_goes_on() -> None:
    assert guess([5, 5, 5, 5, 5]) == [5, 5, 5, 5]
    assert guess([1, 2, 3, 1, 2, 3], max_tokens=8) == [1, 2, 3, 1, 2, 3, 1, 2]
    assert follow([7, 8, 9], 1, 5) == [8, 9, 8, 9, 8]


def test_sequences_do_not_mix_and_are_forgotten() -> None:
    found = proposer()
    first, second = DraftRequest("a", [1, 2, 3, 1, 2], 1), DraftRequest("b", [1, 2, 4, 1, 2], 1)
    assert found.propose([first, second]) == [[3], [4]]
    found.forget(["a", "unknown"])
    assert set(found._indices) == {"b"}
    assert found.propose([DraftRequest("a", [8, 1, 2, 5, 1, 2], 1)]) == [[5]]


def test_options_make_sense_together() -> None:
    assert LookupConfig() == LookupConfig(prompt_lookup_max=4, prompt_lookup_min=2)
    assert LookupConfig(prompt_lookup_max=1).prompt_lookup_min == 1
    assert LookupConfig(prompt_lookup_min=6).prompt_lookup_max == 6
    with pytest.raises(ValueError, match="prompt_lookup_min is 5, more than prompt_lookup_max, 3"):
        LookupConfig(prompt_lookup_min=5, prompt_lookup_max=3)
    for wrong in ({"prompt_lookup_max": 0}, {"prompt_lookup_min": 0}, {"prompt_lookup": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LookupConfig.model_validate(wrong)


def test_a_step_costs_the_same_however_long_the_sequence_is() -> None:
    """Even where one token is all that there is, so that every place is a candidate."""

    def seconds(length: int) -> float:
        found, tokens = proposer(), [3] * length
        found.propose([DraftRequest("a", tokens, 4)])
        started = time.perf_counter()
        for _ in range(300):
            tokens.append(3)
            found.propose([DraftRequest("a", tokens, 4)])
        return time.perf_counter() - started

    short, long = (min(seconds(length) for _ in range(3)) for length in (100, 30_000))
    assert long < 5 * short + 0.005
