"""What depends on earlier tokens: penalties from step to step, bans, drafts; and masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dovetail.engine.engine_request import Request
from dovetail.engine.sampling import SamplingTables, apply_bitmask, build_logit_edits, build_sampling_metadata, sample

from .reference import CPU, make_request, possible, step, tables_for, upload

V = 60


def advance(requests: list[Request], tables: SamplingTables, number: int) -> None:
    logits = torch.randn(len(requests), V, generator=torch.Generator().manual_seed(number)) * 2
    tokens = step(logits, requests, tables).tokens.tolist()
    for line, request, token in zip(logits.numpy(), requests, tokens, strict=True):
        assert token in possible(line, request)
        request.tokens.append(token)


def test_penalties_follow_the_output_for_many_steps() -> None:
    requests = [
        make_request([1, 2, 2], repetition_penalty=2.0, temperature=0),
        make_request([1], temperature=0),
        make_request([5], [6, 6], frequency_penalty=1.5, seed=3),
        make_request([7], presence_penalty=2.0, temperature=0),
    ]
    tables = tables_for(requests, V)
    for number in range(40):
        advance(requests, tables, number)


def test_a_request_that_comes_back_brings_its_counts() -> None:
    requests = [make_request([1, 2], frequency_penalty=1.0, temperature=0) for _ in range(2)]
    tables = tables_for(requests, V)
    for number in range(10):
        advance(requests, tables, number)
    tables.clear(0)
    tables.set(0, make_request([9], [8] * 50, presence_penalty=-2.0))  # takes the slot, and leaves it dirty
    tables.flush()
    tables.set(0, requests[0])
    tables.flush()
    for number in range(10, 30):
        advance(requests, tables, number)


def test_tables_grow_and_keep_what_they_hold() -> None:
    tables = SamplingTables(40, V, CPU, upload)
    assert len(tables.counts.counts) == len(tables.biases.values) == 0
    requests: list[Request] = []
    for number in range(40):
        bias = {number: 2.0} if number % 2 else None
        requests.append(make_request([number], temperature=0, frequency_penalty=0.5 + number / 40, logit_bias=bias))
        tables.set(number, requests[-1])
        tables.flush()
        advance(requests, tables, number)
    assert len(tables.counts.counts) < 80
    assert len(tables.biases.values) < 40


def test_tokens_beyond_the_logits_are_not_counted() -> None:
    request = make_request([1, V + 5], [V, 3], frequency_penalty=1.0, temperature=0)
    tables = tables_for([request, make_request([2], presence_penalty=1.0)], V)
    assert [counts.sum().item() for counts in tables.counts.counts[:2]] == [1, 0]
    assert [prompt.nonzero().flatten().tolist() for prompt in tables.counts.prompts[:2]] == [[1], [2]]


def test_ends_are_forbidden_before_min_tokens_and_bad_words_always() -> None:
    logits = torch.zeros(1, V)
    logits[0, [3, 11, 12]] = torch.tensor([9.0, 8.0, 7.0])

    def token(**given: object) -> int:
        return int(step(logits, [make_request(temperature=0, **given)]).tokens)  # type: ignore[arg-type]

    assert token() == 3
    assert token(min_tokens=1) == 11
    assert token(min_tokens=1, stop_token_ids=[11]) == 12
    assert token(min_tokens=1, output=[5]) == 3
    assert token(bad_words=[[3]]) == 11
    assert token(bad_words=[[5, 3], [11]]) == 3
    assert token(bad_words=[[5, 3], [11]], output=[5]) == 12
    assert token(bad_words=[[5, 3]], prompt=[5]) == 3  # a beginning in the prompt is none
    assert token(bad_words=[[5, 5, 3]], output=[5]) == 3


def test_unseen_tokens_count_for_min_tokens() -> None:
    request = make_request(min_tokens=2, output=[5])
    assert build_logit_edits([(request, ())], V, upload) is not None
    request.num_in_flight_tokens = 1
    assert build_logit_edits([(request, ())], V, upload) is None


def test_an_end_that_a_mask_demands_is_not_forbidden() -> None:
    entries = [(make_request(min_tokens=2), ())] * 2
    edits = build_logit_edits(entries, V, upload, must_end={1})
    assert edits is not None
    assert edits.forbidden is not None
    assert edits.forbidden.tolist() == [3]


def test_nothing_to_edit_is_none() -> None:
    requests = [make_request(), make_request(presence_penalty=1.0), make_request(bad_words=[[1, 2]])]
    assert build_logit_edits([(request, ()) for request in requests], V, upload) is None


@pytest.mark.parametrize("vocabulary", [32, 33, 60, 127])
def test_a_bitmask_leaves_what_it_names(vocabulary: int) -> None:
    allowed = np.random.default_rng(0).random((3, vocabulary)) < 0.4
    masks = np.zeros((3, -(-vocabulary // 32)), np.uint32)
    for line, token in zip(*allowed.nonzero(), strict=True):
        masks[line, token // 32] |= np.uint32(1 << (token % 32))
    scores = apply_bitmask(torch.zeros(3, vocabulary), torch.from_numpy(masks.view(np.int32)))
    assert np.array_equal(scores.numpy() == 0, allowed)
    assert np.array_equal(np.isneginf(scores.numpy()), ~allowed)


def test_masks_of_some_lines() -> None:
    requests = [make_request(temperature=0), make_request(seed=1), make_request(temperature=0)]
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(0))
    free = step(logits, requests).tokens
    mask = np.zeros(2, np.int32)
    mask[1] = 1 << 7  # token 39
    edits = build_logit_edits([(request, ()) for request in requests], V, upload, {1: mask})
    args = (
        torch.arange(3),
        torch.ones(3, dtype=torch.int64),
        tables_for(requests, V),
        build_sampling_metadata(requests),
        edits,
    )
    assert sample(logits.clone(), *args).tokens.tolist() == [int(free[0]), 39, int(free[2])]


def drafted(request: Request, drafts: list[int], logits: torch.Tensor, tables: SamplingTables) -> list[int]:
    """What is accepted when a request's drafts are checked in one step: up to the first token that differs from its draft."""
    entries = [(request, drafts[:count]) for count in range(len(drafts) + 1)]
    positions = torch.tensor([request.num_tokens + count for count in range(len(entries))])
    rows = torch.zeros(len(entries), dtype=torch.int64)
    metadata = build_sampling_metadata([request for request, _ in entries])
    tokens = sample(
        logits.clone(), rows, positions, tables, metadata, build_logit_edits(entries, V, upload)
    ).tokens.tolist()
    accepted = []
    for token, draft in zip(tokens, [*drafts, None], strict=True):
        accepted.append(token)
        if token != draft:
            break
    return accepted


@pytest.mark.parametrize(
    "params",
    [
        {"frequency_penalty": 1.5},
        {"repetition_penalty": 3.0, "temperature": 0},
        {"min_tokens": 20},
        {"bad_words": [[4, 5], [6]]},
    ],
)
def test_checked_drafts_give_the_tokens_of_single_steps(params: dict[str, object]) -> None:
    alone = make_request([1, 2], seed=4, **params)  # type: ignore[arg-type]
    tables = tables_for([alone], V)
    logits = torch.randn(60, V, generator=torch.Generator().manual_seed(1)) * 2
    logits[:, [3, 4, 5, 6]] += 2
    for _ in range(50):
        alone.tokens.append(int(step(logits[alone.num_tokens : alone.num_tokens + 1], [alone], tables).tokens))
    checked = make_request([1, 2], seed=4, **params)  # type: ignore[arg-type]
    tables = tables_for([checked], V)
    random = np.random.default_rng(0)
    while checked.num_tokens < 40:
        here = checked.num_tokens
        drafts = alone.tokens[here : here + int(random.integers(0, 5))]
        if drafts and random.random() < 0.5:
            drafts[int(random.integers(len(drafts)))] = 0
        accepted = drafted(checked, drafts, logits[here : here + len(drafts) + 1], tables)
        checked.tokens += accepted
        assert checked.tokens == alone.tokens[: checked.num_tokens]


def test_rows_with_the_same_biases_share_a_slot() -> None:
    bias = {3: 2.0}
    shared = [make_request([1], temperature=0) for _ in range(6)]
    for request in shared:
        request.params.logit_bias = bias
    other = make_request([1], temperature=0, logit_bias={3: 2.0})
    tables = tables_for([*shared, other], V)
    assert len(tables.biases.values) == 4
    assert len({int(row[5]) for row in tables.numbers[:6]}) == 1
    slot = int(tables.numbers[0][5])
    for row in range(5):
        tables.clear(row)
    tables.flush()
    assert int(tables.numbers[5][5]) == slot
    assert tables.biases.values[slot][3] == 2.0
    tables.clear(5)
    tables.set(0, make_request([1], temperature=0, logit_bias={4: 1.0}))  # takes the slot, now that it is free
    tables.flush()
    assert int(tables.numbers[0][5]) == slot
    assert tables.biases.values[slot][:5].tolist() == [0, 0, 0, 0, 1.0]
