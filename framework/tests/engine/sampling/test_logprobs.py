"""Logprobs against their definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dovetail.engine.sampling import compute_logprobs

from .reference import edited, kept, make_request, step, tables_for


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


BATCH = [
    {"temperature": 0.7},
    {"temperature": 0.7, "top_k": 5},
    {"temperature": 1.3, "top_p": 0.6},
    {"temperature": 0.5, "top_k": 80, "top_p": 0.9, "min_p": 0.01},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 0, "top_k": 3, "top_p": 0.1, "min_p": 0.5},
    {"temperature": 1.0, "frequency_penalty": 1.5, "logit_bias": {7: 3.0}, "top_k": 100},
    {"temperature": 0, "allowed_token_ids": [3, 5, 9]},
]


@pytest.mark.parametrize("mode", ["raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits"])
@pytest.mark.parametrize(
    "batch", [BATCH, BATCH[:1], BATCH[5:6], BATCH[2:3] * 40], ids=["mixed", "free", "greedy", "many"]
)
def test_modes(mode: Any, batch: list[dict[str, Any]]) -> None:
    logits = torch.randn(len(batch), 200, generator=torch.Generator().manual_seed(1)) * 3
    requests = [make_request([1, 2], [4, 4, 6], seed=i, logprobs=-1, **given) for i, given in enumerate(batch)]
    plain = step(logits, requests)
    tables = tables_for(requests, 200, logprobs_mode=mode)
    sampled = step(logits, requests, tables)
    assert torch.equal(sampled.tokens, plain.tokens)  # the mode decides nothing
    assert sampled.logprobs is not None
    for i, request in enumerate(requests):
        line = logits[i].numpy()
        if mode.startswith("processed"):
            line = edited(line, request)
            if not request.params.greedy:
                stay = [token for token, _ in kept(line, request.params, 0.0)]
                mask = np.full(200, -np.inf)
                mask[stay] = 0
                line = line / request.params.temperature + mask
        exact = torch.from_numpy(line).double()
        if mode.endswith("logprobs"):
            exact = exact.log_softmax(-1)
        shown = torch.empty(200, dtype=torch.float64)
        shown[sampled.logprobs.top_ids[i]] = sampled.logprobs.top_logprobs[i].double()
        assert torch.allclose(shown, exact, atol=1e-4)
        token = int(sampled.tokens[i])
        assert math.isclose(sampled.logprobs.logprobs[i], exact[token], abs_tol=1e-4)
        assert sampled.logprobs.ranks[i] == 1 + int((shown > shown[token]).sum())
