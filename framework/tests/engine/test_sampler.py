"""The sampler against slow, obvious references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.sampler import forbid_early_end, penalise, restrict, sample

VOCABULARY = 50


def make_request(
    prompt: list[int] | None = None, output: list[int] | None = None, eos: int = 49, **params: Any
) -> Request:
    prompt = prompt or [1]
    return Request("r", prompt + (output or []), SamplingParams(**params), len(prompt), 1000, frozenset({eos}))


def logits(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 3


def kept(line: Tensor) -> set[int]:
    return set(torch.nonzero(line > -math.inf).flatten().tolist())


def test_temperature_zero_takes_the_likeliest() -> None:
    values = logits(4)
    assert sample(values.clone(), [make_request(temperature=0)] * 4).tolist() == values.argmax(-1).tolist()


def test_greedy_and_drawn_requests_share_a_batch() -> None:
    values = logits(2)
    tokens = sample(values.clone(), [make_request(temperature=0), make_request(temperature=1.0, top_k=1)])
    assert tokens.tolist() == values.argmax(-1).tolist()


@pytest.mark.parametrize("k", [1, 5, 50, 60])
def test_top_k_keeps_the_k_likeliest(k: int) -> None:
    values = logits(1)
    wanted = set(values[0].topk(min(k, VOCABULARY)).indices.tolist())
    restrict(values, [SamplingParams(top_k=k)])
    assert kept(values[0]) == wanted


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
def test_top_p_keeps_the_smallest_set_that_reaches_p(p: float) -> None:
    values = logits(1)
    order = values[0].softmax(-1).sort(descending=True)
    wanted, mass = set(), 0.0
    for probability, token in zip(order.values.tolist(), order.indices.tolist(), strict=True):
        if mass < p:
            wanted.add(token)
        mass += probability
    restrict(values, [SamplingParams(top_p=p)])
    assert kept(values[0]) == wanted


def test_top_p_of_one_keeps_everything() -> None:
    values = logits(1)
    restrict(values, [SamplingParams(top_p=1.0, top_k=VOCABULARY - 1)])
    assert len(kept(values[0])) == VOCABULARY - 1


def test_min_p_is_relative_to_the_likeliest() -> None:
    values = logits(1)
    probabilities = values[0].softmax(-1)
    restrict(values, [SamplingParams(min_p=0.2)])
    assert kept(values[0]) == set(torch.nonzero(probabilities >= 0.2 * probabilities.max()).flatten().tolist())


def test_restrictions_of_one_row_leave_the_others_alone() -> None:
    values = logits(3)
    before = values.clone()
    restrict(values, [SamplingParams(), SamplingParams(top_k=2), SamplingParams()])
    assert torch.equal(values[[0, 2]], before[[0, 2]])
    assert len(kept(values[1])) == 2


def test_penalties_follow_their_definitions() -> None:
    values = logits(1)
    wanted = values[0].clone()
    prompt, output = [3, 4, 4], [5, 5, 6]
    for token in {3, 4, 5, 6}:
        wanted[token] = wanted[token] / 1.5 if wanted[token] > 0 else wanted[token] * 1.5
    for token in output:
        wanted[token] -= 0.3
    for token in set(output):
        wanted[token] -= 0.7
    penalise(
        values, [make_request(prompt, output, repetition_penalty=1.5, frequency_penalty=0.3, presence_penalty=0.7)]
    )
    assert torch.allclose(values[0], wanted)


def test_no_end_before_min_tokens() -> None:
    values = torch.zeros(2, VOCABULARY)
    early = make_request(output=[7], min_tokens=2, max_tokens=9, stop_token_ids=[11])
    late = make_request(output=[7, 7], min_tokens=2, max_tokens=9)
    forbid_early_end(values, [early, late])
    assert values[0, 49] == values[0, 11] == -math.inf
    assert values[1, 49] == 0


def test_a_seed_repeats_alone_and_in_any_company() -> None:
    def draws(companions: int) -> list[int]:
        mine = make_request(seed=5)
        batch = [make_request(seed=100 + i) for i in range(companions)] + [mine]
        return [sample(logits(1, step).repeat(len(batch), 1), batch)[-1].item() for step in range(20)]  # type: ignore[misc]

    assert draws(0) == draws(0) == draws(7)


def test_draws_follow_the_probabilities() -> None:
    torch.manual_seed(0)
    line = torch.tensor([0.0, 1.0, 2.0, -1.0])
    rows = 40_000
    tokens = sample(line.repeat(rows, 1), [make_request(temperature=2.0)] * rows)
    frequencies = tokens.bincount(minlength=4) / rows
    # Four standard deviations of a frequency at this size are at most 0.01.
    assert torch.allclose(frequencies, (line / 2).softmax(-1), atol=0.01)


def test_rows_of_every_kind_share_a_batch_and_keep_their_own_rules() -> None:
    rows = [
        make_request(temperature=0),
        make_request(top_k=1),
        make_request(top_k=3, top_p=0.5, seed=1),
        make_request(top_k=49, seed=2),
        make_request(top_p=0.01),
        make_request(top_k=2**31 - 1, seed=3),
    ]
    for step in range(30):
        values = logits(len(rows), step)
        ranks = values.argsort(-1, descending=True)
        tokens = sample(values.clone(), rows).tolist()
        assert tokens[0] == ranks[0, 0]
        assert tokens[1] == ranks[1, 0]
        assert tokens[2] in ranks[2, :3]
        assert tokens[3] in ranks[3, :49]
        assert tokens[4] == ranks[4, 0]
