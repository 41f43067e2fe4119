"""Penalties by listed tokens and by the whole vocabulary: the same bits, around the longest text that is listed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dovetail.engine.engine_request import Request
from dovetail.engine.sampling import SamplingTables, build_logit_edits, build_sampling_metadata, penalties, sample

from .reference import edited, make_request, step, tables_for, upload

V = 400
PENALTIES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7},
    {"frequency_penalty": 0.3},
    {"presence_penalty": -0.4},
    {"repetition_penalty": 1.1, "frequency_penalty": -0.2, "presence_penalty": 0.6},
]


def penalised(logits: torch.Tensor, requests: list[Request], tables: SamplingTables) -> torch.Tensor:
    scores = logits.clone()
    metadata, floats = build_sampling_metadata(requests), tables.floats[: len(requests), 1:].split(1, 1)
    wanted = (metadata.repetition, metadata.presence, metadata.frequency)
    some = penalties.Penalties(*(values if flag else None for values, flag in zip(floats, wanted, strict=True)))
    lines = torch.arange(len(requests))
    tables.counts.penalise(scores, lines, tables.numbers[lines, 4], some, None)
    return scores


@pytest.mark.parametrize("at_once", [1, 1000, 1 << 20])
@pytest.mark.parametrize("kinds", [PENALTIES, *([kind] for kind in PENALTIES)])
def test_lists_and_the_whole_vocabulary_give_the_definition(
    kinds: list[dict[str, Any]], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(penalties, "SCORES_PER_CHUNK", at_once)
    random = np.random.default_rng(0)
    requests = [
        make_request(random.integers(0, V, 20).tolist(), random.integers(0, V, 10 * i).tolist(), temperature=0, **kind)
        for i, kind in enumerate(kinds)
    ]
    listed, whole = tables_for(requests, V), tables_for(requests, V)
    whole.counts.max_list_len = 0
    ways = set()
    for number in range(90):
        logits = torch.randn(len(requests), V, generator=torch.Generator().manual_seed(number)) * 2
        logits[:, number] = torch.tensor([torch.inf, -torch.inf, 0.0, -0.0])[number % 4]
        ways.add(listed.counts.longest <= listed.counts.max_list_len)
        scores = penalised(logits, requests, listed)
        assert torch.equal(scores, penalised(logits, requests, whole))
        wanted = np.stack([edited(line, r) for line, r in zip(logits.numpy(), requests, strict=True)])
        assert np.array_equal(scores.numpy(), wanted)
        tokens = step(logits, requests, listed).tokens
        assert torch.equal(tokens, step(logits, requests, whole).tokens)
        for request, token in zip(requests, tokens.tolist(), strict=True):
            request.tokens.append(token)
    assert ways == {True, False}  # texts grow beyond what is listed


def test_a_broken_line_stays_one() -> None:
    request = make_request([1], [2], temperature=0, **PENALTIES[-1])
    scores = penalised(torch.full((1, V), torch.nan), [request], tables_for([request], V))
    assert scores.isnan().all()


@pytest.mark.parametrize("missing", range(4))
def test_drafts_that_fail_leave_the_end_of_a_list_alone(missing: int) -> None:
    """Their tokens have places beyond the last that is listed."""
    request = make_request([1], temperature=0, repetition_penalty=50.0)
    tables = tables_for([request], V)
    most = tables.counts.max_list_len
    request.tokens += range(100, 100 + most - missing - 1)
    tables.set(0, request)
    tables.flush()
    drafts = [7, 8, 9, 10]
    entries = [(request, drafts[:count]) for count in range(5)]
    logits = torch.rand(5, V, generator=torch.Generator().manual_seed(0)) + 1
    logits[0, 300] = 1e4  # not the first draft, so none of the others counts
    positions = request.num_tokens + torch.arange(5)
    rows, metadata = torch.zeros(5, dtype=torch.int64), build_sampling_metadata([request] * 5)
    assert sample(logits, rows, positions, tables, metadata, build_logit_edits(entries, V, upload)).tokens[0] == 300
    request.tokens.append(300)
    assert (tables.counts.longest <= most) == (missing > 0)
    logits = torch.rand(1, V, generator=torch.Generator().manual_seed(1)) + 1
    assert np.array_equal(penalised(logits, [request], tables).numpy()[0], edited(logits.numpy()[0], request))


def test_a_long_text_that_leaves_gives_the_others_their_lists_back() -> None:
    requests = [make_request([3, 4], temperature=0, **PENALTIES[-1]) for _ in range(2)]
    requests[1].tokens += range(V - 50)
    tables = tables_for(requests, V)
    assert tables.counts.longest > tables.counts.max_list_len
    for number in range(20):
        logits = torch.randn(2, V, generator=torch.Generator().manual_seed(number))
        for request, token in zip(requests, step(logits, requests, tables).tokens.tolist(), strict=True):
            request.tokens.append(token)
    tables.clear(1)
    tables.flush()
    assert tables.counts.longest <= tables.counts.max_list_len
    scores = penalised(logits[:1], requests[:1], tables)
    assert np.array_equal(scores.numpy()[0], edited(logits.numpy()[0], requests[0]))


def test_tables_take_six_bytes_for_a_token_of_the_vocabulary() -> None:
    requests = [make_request(list(range(V)), [5] * V, frequency_penalty=0.5, temperature=0) for _ in range(8)]
    tables = tables_for(requests, V)
    step(torch.randn(8, V), requests, tables)
    counts = tables.counts
    held = sum(table.nbytes for table in (counts.counts, counts.prompts, counts.lists))
    assert held <= 8 * (6 * V + 4)
