"""The likeliest tokens against a sort in Python."""

from __future__ import annotations

import math

import pytest
import torch

from dovetail.engine.sampling.stable_topk import stable_topk


@pytest.mark.parametrize("vocabulary", [1, 63, 64, 1000, 8192, 9001])
@pytest.mark.parametrize("width", [1, 5, 64])
@pytest.mark.parametrize("coarse", [0, 1, 100])
def test_by_score_then_by_id(vocabulary: int, width: int, coarse: int) -> None:
    width = min(width, vocabulary)
    scores = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 4
    if coarse:
        scores = (scores / coarse).round()  # 100: zeros of both signs and nothing else
    scores[0, 1::2] = -math.inf
    values, ids = stable_topk(scores, width)
    for line, its_values, its_ids in zip(scores.tolist(), values, ids, strict=True):
        wanted = sorted(range(vocabulary), key=lambda token: (-line[token], token))[:width]
        assert its_ids.tolist() == wanted
        assert its_values.tolist() == [line[token] for token in wanted]


@pytest.mark.parametrize("nan", [math.nan, -math.nan])
def test_ids_are_in_the_vocabulary_whatever_the_scores(nan: float) -> None:
    scores = torch.full((2, 9001), nan)
    scores[1, 5:] = math.inf
    ids = stable_topk(scores, 64)[1]
    assert ids.min() >= 0
    assert ids.max() < 9001
