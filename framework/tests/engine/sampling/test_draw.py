"""Random numbers and draws: their statistics, their limits, and that they are the same everywhere."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dovetail.engine.sampling.draw import draw, draw_sorted
from dovetail.engine.sampling.random_bits import fraction_of, uniform

from .reference import hashed, make_request, step, tables_for

MOST = 2**31 - 1


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_the_hash_is_the_one_of_python_integers(seed: int, position: int) -> None:
    assert uniform(torch.tensor([seed]), torch.tensor([position])).item() == hashed(seed, position)


@given(st.integers(0, 2**62 - 1), st.integers(0, 2**31))
def test_a_fraction_is_exact(total: int, fraction: int) -> None:
    assert fraction_of(torch.tensor([total]), torch.tensor([fraction])).item() == total * fraction >> 31


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    """Standard deviations from what is expected of its statistic."""
    expected = probabilities.double() * counts.sum()
    degrees = len(counts) - 1
    statistic = ((counts - expected) ** 2 / expected).sum().item()
    return (statistic - degrees) / math.sqrt(2 * degrees)


COUNT, DRAWS = 20_000, 6_000
SAME = torch.zeros(COUNT, dtype=torch.int64)
RISING = torch.arange(COUNT)


@pytest.mark.parametrize(
    ("seeds", "positions"), [(SAME, RISING), (RISING, SAME + 7), (RISING, RISING), (SAME - 1, RISING), (-RISING, SAME)]
)
def test_numbers_are_uniform_and_neighbours_independent(seeds: Tensor, positions: Tensor) -> None:
    numbers = uniform(seeds, positions)
    assert numbers.min() >= 0
    assert numbers.max() <= MOST
    for shift in (0, 11, 23):  # high, middle and low bits
        bucket = (numbers >> (23 - shift)) & 255
        assert abs(chi_square(bucket.bincount(minlength=256), torch.full((256,), 1 / 256))) < 4
    pairs = (numbers[:-1] >> 27) * 16 + (numbers[1:] >> 27)
    assert abs(chi_square(pairs.bincount(minlength=256), torch.full((256,), 1 / 256))) < 4


@pytest.mark.parametrize(
    "params", [{}, {"temperature": 2.0}, {"top_k": 5}, {"top_k": 70, "top_p": 0.9}, {"top_p": 0.8}, {"min_p": 0.1}]
)
def test_draws_follow_the_probabilities(params: dict[str, float]) -> None:
    line = torch.linspace(-2, 2, 300)[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    request = make_request(seed=11, **params)
    probabilities = (line / request.params.temperature).softmax(-1).double()
    order = probabilities.argsort(descending=True)
    chances = probabilities[order]
    chances[chances < request.params.min_p * chances[0]] = 0
    if request.params.top_k > 0:
        chances[request.params.top_k :] = 0
    chances /= chances.sum()
    chances[chances.cumsum(0) - chances >= request.params.top_p] = 0
    probabilities[order] = chances / chances.sum()
    tables = tables_for([request], 300)
    counts = torch.zeros(300)
    for start in range(0, DRAWS, 2000):
        batch = [make_request([1] * (start + i), seed=11, **params) for i in range(2000)]
        counts += step(line.repeat(2000, 1), batch, tables, [0] * 2000).tokens.bincount(minlength=300)
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    assert abs(chi_square(counts[possible], probabilities[possible])) < 4


def test_two_requests_draw_alike_only_with_one_seed() -> None:
    logits = torch.zeros(1, 1000).repeat(3, 1)

    def tokens(seed: int) -> list[int]:
        return [int(step(logits[:1], [make_request([1] * n, seed=seed)]).tokens) for n in range(1, 30)]

    assert tokens(5) == tokens(5)
    assert sum(a == b for a, b in zip(tokens(5), tokens(6), strict=True)) < 3
    assert len(set(tokens(5))) > 20


@pytest.mark.parametrize("vocabulary", [3, 128, 300])
def test_a_token_without_weight_is_never_drawn(vocabulary: int) -> None:
    weights = torch.zeros(1, vocabulary, dtype=torch.int64)
    weights[0, vocabulary // 2] = 1
    for number in (0, 1, MOST // 2, MOST):
        assert draw(weights, torch.tensor([number])).item() == vocabulary // 2
    ranked = torch.tensor([[7, 2, 0, 0]])
    found = [
        draw_sorted(ranked.clone(), torch.tensor([4]), torch.tensor([2**31]), torch.tensor([n])).item()
        for n in (0, MOST)
    ]
    assert found == [0, 1]


@pytest.mark.parametrize("vocabulary", [5, 256, 1000])
def test_a_draw_finds_the_first_token_beyond_the_number(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    weights = torch.randint(0, 2**40, (50, vocabulary), generator=generator)
    weights[torch.rand(50, vocabulary, generator=generator) < 0.5] = 0
    weights[:, 3] = 1
    numbers = torch.randint(0, 2**31, (50,), generator=generator)
    for line, number, token in zip(weights.tolist(), numbers.tolist(), draw(weights, numbers).tolist(), strict=True):
        ends = itertools.accumulate(line)
        assert token == next(i for i, end in enumerate(ends) if end > sum(line) * number >> 31)
