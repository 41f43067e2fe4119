"""Logprobs against their definition."""

from __future__ import annotations

import math

import pytest
import torch

from dovetail.engine.sampling import compute_logprobs

from .reference import make_request, step


@pytest.mark.parametrize("k", [0, 1, 5, 200, 10**6])
@pytest.mark.parametrize("lines", [1, 130])
def test_of_targets_and_of_the_likeliest(lines: int, k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    logits = (torch.randn(lines, 9000 if k == 5 else 200, generator=generator) * 3).bfloat16()
    targets = torch.randint(0, 200, (lines,), generator=generator)
    found = compute_logprobs(logits, targets, k)
    exact = logits.double().log_softmax(-1)
    for i in range(lines):
        line = logits[i].tolist()
        assert math.isclose(found.logprobs[i], exact[i, targets[i]], abs_tol=1e-4)
        assert found.ranks[i] == 1 + sum(value > line[targets[i]] for value in line)
        wanted = sorted(range(len(line)), key=lambda token: (-line[token], token))[:k]
        assert found.top_ids[i].tolist() == wanted
        assert torch.allclose(found.top_logprobs[i].double(), exact[i, wanted], atol=1e-4)


def test_sampled_tokens_get_those_of_the_raw_logits() -> None:
    logits = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    batch = [
        make_request([1, 2], [4, 4], temperature=0.2, logprobs=3, frequency_penalty=2, top_k=1),
        make_request(logit_bias={7: 100.0}, temperature=0, logprobs=0),
        make_request(allowed_token_ids=[9]),
    ]
    sampled = step(logits, batch)
    assert sampled.tokens.tolist()[1:] == [7, 9]
    assert sampled.logprobs is not None
    wanted = compute_logprobs(logits, sampled.tokens, 3)
    assert all(torch.equal(a, b) for a, b in zip(sampled.logprobs, wanted, strict=True))
    assert sampled.logprobs.top_ids.shape == (3, 3)


def test_minus_one_asks_for_the_whole_vocabulary() -> None:
    sampled = step(torch.randn(2, 100), [make_request(), make_request(logprobs=-1)])
    assert sampled.logprobs is not None
    assert sampled.logprobs.top_ids.sort().values.tolist() == [list(range(100))] * 2


def test_none_are_made_where_nobody_asks() -> None:
    assert step(torch.randn(2, 100), [make_request(), make_request(temperature=0)]).logprobs is None
