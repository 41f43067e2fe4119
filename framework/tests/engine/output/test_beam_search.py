"""Beam search against the definition: every step written out, nothing pruned, nothing left early."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest

from dovetail import BeamSearchParams
from dovetail.engine.output.beam_search import BeamSearch, build_step_params
from dovetail.engine.request.outputs import Logprob, PositionLogprobs

from ..offline_fakes import EOS, VOCAB, distribution, ranking

PROMPT = [3, 1]


def position(tokens: list[int], count: int, seed: int) -> PositionLogprobs:
    logprobs = distribution(tokens, seed)
    return {token: Logprob(logprobs[token], rank) for rank, token in enumerate(ranking(logprobs)[:count], 1)}


def search(params: BeamSearchParams, seed: int, eos_ids: tuple[int, ...] = (EOS,), context: int = 1000) -> BeamSearch:
    found = BeamSearch(PROMPT, params, eos_ids, context)
    count = build_step_params(params, eos_ids, VOCAB, detokenize=False).logprobs or 0
    while found.beams:
        found.extend([position(beam.tokens, count, seed) for beam in found.beams])
    return found


@dataclass
class Candidate:
    tokens: list[int]
    total: float


def reference(
    params: BeamSearchParams, seed: int, eos_ids: tuple[int, ...], longest: int
) -> list[tuple[list[int], float]]:
    """The slow way: every token of the vocabulary for every beam, to the last step."""
    beams, completed = [Candidate(PROMPT, 0.0)], []
    for _ in range(longest):
        everything = [
            Candidate([*beam.tokens, token], beam.total + logprob)
            for beam in beams
            for token, logprob in position(beam.tokens, 2 * params.beam_width, seed).items()
            for logprob in [logprob.logprob]
        ]
        ended = [c for c in everything if c.tokens[-1] in eos_ids and not params.ignore_eos]
        completed += ended
        going_on = [c for c in everything if c not in ended]
        beams = sorted(going_on, key=lambda c: -c.total)[: params.beam_width]
    scored = [(c.tokens, c.total / (len(c.tokens) - len(PROMPT)) ** params.length_penalty) for c in completed + beams]
    return sorted(scored, key=lambda entry: -entry[1])[: params.beam_width]


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0, -1.0])
@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("ignore_eos", [False, True])
def test_it_finds_what_the_definition_finds(penalty: float, width: int, ignore_eos: bool) -> None:
    params = BeamSearchParams(width, 7, ignore_eos=ignore_eos, length_penalty=penalty)
    for seed in range(40):
        found = search(params, seed)
        ours = [(beam.tokens, pytest.approx(found.score(beam))) for beam in found.best()]
        assert ours == reference(params, seed, (EOS,), 7)


def test_exhaustive_search_agrees_when_the_width_holds_everything() -> None:
    """With room for every sequence there is nothing left to chance: the best of all of them is found."""
    params = BeamSearchParams(VOCAB**2, 2, ignore_eos=True)
    found = search(params, 1)
    every = {
        pair: distribution(PROMPT, 1)[pair[0]] + distribution([*PROMPT, pair[0]], 1)[pair[1]]
        for pair in itertools.product(range(VOCAB), repeat=2)
    }
    best = found.best()
    assert len(best) == len(every)
    assert tuple(best[0].tokens[2:]) == max(every, key=lambda pair: every[pair])
    assert best[0].cum_logprob == pytest.approx(max(every.values()))


def test_ends_and_logprobs_are_told() -> None:
    params = BeamSearchParams(3, 6)
    reasons = set()
    for seed in range(20):
        for beam in search(params, seed).best():
            reasons.add(beam.finish_reason)
            assert (beam.finish_reason == "stop") == (beam.tokens[-1] == EOS)
            output = beam.tokens[len(PROMPT) :]
            told = [entry[token].logprob for token, entry in zip(output, beam.logprobs, strict=True)]
            assert sum(told) == pytest.approx(beam.cum_logprob)
    assert reasons == {"stop", "length"}


def test_a_search_that_is_decided_ends_early() -> None:
    params = BeamSearchParams(1, 500, length_penalty=0.0)
    steps, found = 0, BeamSearch(PROMPT, params, (EOS,), 1000)
    certain = {EOS: Logprob(-0.001), 4: Logprob(-7.0)}
    while found.beams:
        steps += 1
        found.extend([certain])
    assert steps == 1
    assert found.best()[0].tokens == [*PROMPT, EOS]


def test_the_context_bounds_the_search() -> None:
    found = search(BeamSearchParams(2, 500, ignore_eos=True), 0, context=8)
    assert [len(beam.tokens) for beam in found.best()] == [8, 8]


def test_ends_of_sequence_take_no_place_from_what_goes_on() -> None:
    """Also where a model has more of them than there are beams."""
    params = BeamSearchParams(1, 3)
    eos_ids = (13, 14, 15)
    assert build_step_params(params, eos_ids, VOCAB, detokenize=False).logprobs == 4
    found = BeamSearch(PROMPT, params, eos_ids, 1000)
    found.extend([{13: Logprob(-1.0), 14: Logprob(-1.1), 15: Logprob(-1.2), 2: Logprob(-1.3)}])
    assert [beam.tokens for beam in found.beams] == [[*PROMPT, 2]]
