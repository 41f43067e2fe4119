"""The two-stage search for the likeliest token against ``argmax``, and against the obvious where torch promises nothing."""

from __future__ import annotations

import math

import pytest
import torch

from dovetail.engine.sampling.greedy import MAX_SINGLE_PASS_VOCABULARY, MAX_SPLIT_LINES, greedy, parts

VOCABULARIES = [1, MAX_SINGLE_PASS_VOCABULARY, MAX_SINGLE_PASS_VOCABULARY + 1, 5003, 9001, 50257, 128256]


@pytest.mark.parametrize("vocabulary", [MAX_SINGLE_PASS_VOCABULARY + 1, 5003, 50257, 128256, 151936, 262144])
def test_parts_cover_the_vocabulary_and_hardly_overlap(vocabulary: int) -> None:
    stride, over = divmod(vocabulary, parts(vocabulary))
    assert over < 20
    assert (parts(vocabulary) - 1) * stride + stride + over == vocabulary


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_of_equal_ones_the_first(vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    for scale in (0.0, 0.5, 4.0):  # zeros of both signs; many equal ones; few
        scores = (torch.randn(MAX_SPLIT_LINES + 6, vocabulary, generator=generator) * scale).round().to(dtype)
        first = [line.index(max(line)) for line in scores.tolist()]
        assert greedy(scores).tolist() == first
        assert greedy(scores[3 : 3 + MAX_SPLIT_LINES]).tolist() == first[3 : 3 + MAX_SPLIT_LINES]
        assert greedy(scores[3:4]).tolist() == first[3:4]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_maximum_is_found_wherever_it_is(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    stride = vocabulary // parts(vocabulary)
    edges = [place for part in (1, 2, parts(vocabulary) - 1) for place in range(part * stride - 1, part * stride + 21)]
    places = [0, vocabulary - 1, *(place for place in edges if 0 <= place < vocabulary)]
    places += torch.randint(vocabulary, (50,), generator=generator).tolist()
    scores = torch.rand(len(places), vocabulary, generator=generator)
    for line, place in enumerate(places):
        scores[line, place:] = 1.0
    assert [place for some in scores.split(MAX_SPLIT_LINES) for place in greedy(some).tolist()] == places


def test_lines_without_a_number() -> None:
    scores = torch.randn(5, 9001)
    scores[0] = math.nan
    scores[1, [70, 8000]] = math.nan
    scores[2] = -math.inf
    scores[3, [500, 600]] = math.inf
    assert greedy(scores).tolist() == [0, 70, 0, 500, int(scores[4].argmax())]
