"""Who gets guesses, how many, and what becomes of a proposer that misbehaves. Nothing here runs a model."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from typing import Any, cast

import pytest

from dovetail.api import DraftRequest, Proposer
from dovetail.engine.engine_request import Request
from dovetail.engine.grammars.compiler import RequestGrammar
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.drafting import MAX_REST_STEPS, DraftLengthControl, Speculation

EOS = 99
VOCABULARY = 100


class Says(Proposer):
    """Guesses what it was told, as much of it as was asked for."""

    def __init__(self, *guess: int) -> None:
        self.guess = list(guess)
        self.asked: list[dict[str, int]] = []
        self.forgotten: list[str] = []

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        self.asked.append({s.id: s.max_tokens for s in sequences})
        return [self.guess[: s.max_tokens] for s in sequences]

    def forget(self, ids: Iterable[str]) -> None:
        self.forgotten += ids


def speculation(proposer: Proposer, num_tokens: int = 4, max_tokens: int = 64) -> Speculation:
    return Speculation(proposer, num_tokens, VOCABULARY, max_tokens)


def stream(name: str = "a", output: int = 1, max_tokens: int = 50, **params: Any) -> Request:
    """A request whose prompt of 5 tokens, and all of its output but the newest token, is computed."""
    return Request(
        name,
        [1, 2, 3, 4, 5, *range(10, 10 + output)],
        SamplingParams(max_tokens=max_tokens, **params),
        num_prompt_tokens=5,
        max_len=5 + max_tokens,
        eos_ids=frozenset([EOS]),
        num_computed_tokens=4 + output,
    )


# How much to guess.


def checked(control: DraftLengthControl, right: int, limit: int = 10_000) -> int:
    """Steps until a guess is made, and checked with so many tokens right."""
    for steps in range(1, limit):
        if length := control.next_length():
            control.observe(min(right, length), wrong=right < length)
            return steps
    raise AssertionError("it never guesses again")


def test_one_that_is_always_right_guesses_all_it_may() -> None:
    control = DraftLengthControl(4)
    for _ in range(10):
        assert control.next_length() == 4
        control.observe(4, wrong=False)


def test_one_that_is_always_wrong_rests_ever_longer() -> None:
    control = DraftLengthControl(8)
    assert [checked(control, 0) for _ in range(11)] == [
        *[1] * 4,
        2,
        4,
        8,
        16,
        32,
        MAX_REST_STEPS + 1,
        MAX_REST_STEPS + 1,
    ]
    assert control.length == 1


def test_a_bad_proposer_costs_little() -> None:
    control, guessed = DraftLengthControl(8), 0
    for _ in range(1000):
        length = control.next_length()
        guessed += length
        if length:
            control.observe(0, wrong=True)
    assert guessed < 1000 / MAX_REST_STEPS + 8 + 4 + 2 + 8


def test_the_next_guess_is_one_longer_than_what_came_true() -> None:
    control = DraftLengthControl(8)
    control.observe(2, wrong=True)
    assert control.next_length() == 3
    control.observe(3, wrong=False)
    assert control.next_length() == 6
    control.observe(6, wrong=False)
    assert control.next_length() == 8


def test_luck_that_turns_is_noticed() -> None:
    control = DraftLengthControl(8)
    for _ in range(20):
        checked(control, 0)
    assert checked(control, 8) <= MAX_REST_STEPS + 1
    assert [checked(control, 8) for _ in range(4)] == [1, 1, 1, 1]
    assert control.length == 8


def test_a_single_miss_costs_no_step() -> None:
    control = DraftLengthControl(4)
    control.observe(0, wrong=True)
    assert control.next_length() == 2


def test_the_stream_s_own_tokens_are_what_counts() -> None:
    proposer = Says(20, 21, 22, 23)
    found, request = speculation(proposer), stream()
    for came, next_length in (
        ([20, 21, 50], 3),  # two of four were right
        ([20, 21, 22, 60], 4),  # all three
        ([20], 4),  # a step that had room for fewer: nothing was wrong
        ([], 4),  # and for none
        ([70], 2),  # the first was wrong
    ):
        found.draft([request])
        request.tokens += came
        request.num_computed_tokens = len(request.tokens) - 1
        found.draft([request])
        assert proposer.asked[-1] == {"a": next_length}
        found._draft_records[request].guess = []  # this call was only to see
    for draft in ([20, 21], [20], [20], [], [20]):  # after the fourth wrong one in a row it rests
        found.draft([request])
        assert request.draft_token_ids == draft
        request.tokens.append(70)
        request.num_computed_tokens += 1


# Who gets how much.


def test_streams_get_guesses_and_others_none() -> None:
    proposer = Says(20, 21, 22, 23)
    prompt, unseen, done = stream("prompt"), stream("unseen"), stream("done", output=49)
    prompt.num_computed_tokens, unseen.num_in_flight_tokens, prompt.draft_token_ids = 2, 1, [7]
    speculation(proposer).draft([stream("a"), prompt, unseen, done, stream("b")])
    assert proposer.asked == [{"a": 4, "b": 4}]
    assert prompt.draft_token_ids == unseen.draft_token_ids == done.draft_token_ids == []


def test_nobody_is_asked_where_there_is_no_stream() -> None:
    proposer = Says(20)
    speculation(proposer).draft([])
    assert proposer.asked == []


@pytest.mark.parametrize(("left", "most"), [(5, 4), (4, 3), (2, 1), (1, 0)])
def test_a_guess_leaves_room_for_the_step_s_own_token(left: int, most: int) -> None:
    request = stream(output=50 - left)
    speculation(Says(20, 21, 22, 23)).draft([request])
    assert len(request.draft_token_ids) == most


def test_guesses_take_no_room_from_streams() -> None:
    streams = [stream(str(i)) for i in range(6)]
    speculation(Says(20, 21, 22, 23), max_tokens=12).draft(streams)
    assert [len(r.draft_token_ids) for r in streams] == [4, 2, 0, 0, 0, 0]


def test_a_guess_ends_where_the_output_would() -> None:
    request = stream()
    speculation(Says(20, EOS, 21, 22)).draft([request])
    assert request.draft_token_ids == [20, EOS]
    request = stream(ignore_eos=True, stop_token_ids=[21])
    speculation(Says(20, EOS, 21, 22)).draft([request])
    assert request.draft_token_ids == [20, EOS, 21]


@pytest.mark.parametrize(("min_tokens", "draft"), [(2, [20, EOS]), (3, [20])])
def test_an_end_that_may_not_come_yet_is_not_guessed(min_tokens: int, draft: list[int]) -> None:
    request = stream(min_tokens=min_tokens)  # one token of output so far: the end would be the third
    speculation(Says(20, EOS, 21, 22)).draft([request])
    assert request.draft_token_ids == draft


def test_a_grammar_trims_the_guess() -> None:
    class Two:
        fetched: list[int] | None = None

        def valid_prefix(self, draft: Sequence[int]) -> int:
            return min(2, len(draft))

        def prefetch(self, draft: Sequence[int]) -> None:
            self.fetched = list(draft)

    request, grammar = stream(), Two()
    request.grammar = cast(RequestGrammar, grammar)
    speculation(Says(20, 21, 22, 23)).draft([request])
    assert request.draft_token_ids == grammar.fetched == [20, 21]


def test_a_sequence_that_ends_is_forgotten_once() -> None:
    proposer = Says(20)
    found, request = speculation(proposer), stream()
    found.forget(request)
    assert proposer.forgotten == []
    found.draft([request])
    found.forget(request)
    found.forget(request)
    assert proposer.forgotten == ["a"]
    assert not found._draft_records


# Proposers that misbehave.


class Wrong(Says):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def propose(self, sequences: Sequence[DraftRequest]) -> list[list[int]]:
        super().propose(sequences)
        if isinstance(self.answer, Exception):
            raise self.answer
        return cast("list[list[int]]", self.answer)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ZeroDivisionError("by zero"), "by zero"),
        ([], "0 guesses for 1 sequences"),
        ([[1], [2]], "2 guesses for 1 sequences"),
        ([[1, 2, 3, 4, 5]], "5 tokens guessed where at most 4"),
        ([[1, VOCABULARY]], "token 100 guessed with a vocabulary of 100"),
        ([[-1]], "token -1 guessed"),
        (None, "NoneType"),
    ],
)
def test_a_proposer_that_fails_is_not_asked_again(answer: Any, told: str, caplog: pytest.LogCaptureFixture) -> None:
    proposer = Wrong(answer)
    found, request = speculation(proposer), stream()
    with caplog.at_level(logging.ERROR, "dovetail.engine"):
        found.draft([request])
        found.draft([request])
    assert request.draft_token_ids == []
    assert len(proposer.asked) == 1
    assert "speculative decoding is off" in caplog.text
    assert told in caplog.text
    found.forget(request)
    assert not found._draft_records


def test_no_storm_of_streams_breaks_the_bounds() -> None:
    rng = random.Random(3)
    proposer = Says(*range(20, 28))
    found = speculation(proposer, num_tokens=8, max_tokens=40)
    running: list[Request] = []
    for step in range(500):
        if len(running) < 20 and rng.random() < 0.4:
            running.append(stream(str(step), max_tokens=rng.randint(1, 30)))
        found.draft(running)
        assert len(running) + sum(len(r.draft_token_ids) for r in running) <= 40
        for request in list(running):
            assert request.num_tokens + len(request.draft_token_ids) < request.max_len or not request.draft_token_ids
            kept = request.draft_token_ids[: rng.randint(0, len(request.draft_token_ids))]
            request.tokens += [*kept, rng.randrange(20, 30)]
            request.num_computed_tokens = len(request.tokens) - 1
            if request.num_tokens >= request.max_len or rng.random() < 0.05:
                running.remove(request)
                found.forget(request)
    assert set(found._draft_records) <= set(running)
