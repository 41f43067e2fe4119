"""A line's token does not depend on its company, and tables follow requests that come and go."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dovetail.engine.sampling import SamplingMetadata, SamplingTables, build_sampling_metadata, sample
from dovetail.engine.sampling.sampler import CHUNK, NO_TOKEN, NOT_NUMBERS

from .reference import CPU, make_request, step, tables_for, upload

KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_k": 64, "top_p": 0.7},
    {"top_k": 65},
    {"top_p": 0.9},
    {"min_p": 0.05},
    {"min_p": 0.05, "top_k": 20},
    {"repetition_penalty": 1.2, "top_p": 0.95},
    {"presence_penalty": 1.0, "temperature": 0},
    {"logit_bias": {5: 3.0}},
    {"allowed_token_ids": list(range(0, 500, 3))},
    {"logprobs": 4},
    {"min_tokens": 9},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [500, 49152])
def test_alone_and_in_a_batch_of_everything(vocabulary: int, dtype: torch.dtype) -> None:
    for number in range(8):
        generator = torch.Generator().manual_seed(number)
        batch = [make_request([1, 2, 3], [7, 8, 7], seed=100 * number + i, **kind) for i, kind in enumerate(KINDS)]
        logits = (torch.randn(len(batch), vocabulary, generator=generator) * 2).to(dtype)
        together = step(logits, batch)
        for i, request in enumerate(batch):
            alone = step(logits[i : i + 1], [request])
            assert alone.tokens[0] == together.tokens[i], KINDS[i]
            if alone.logprobs is not None:
                assert together.logprobs is not None
                assert all(torch.equal(a[0], b[i]) for a, b in zip(alone.logprobs, together.logprobs, strict=True))
        doubled = step(torch.cat([logits.flip(0), logits] * 3), (batch[::-1] + batch) * 3)  # more than one chunk
        assert torch.equal(doubled.tokens[-len(batch) :], together.tokens)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_device_that_sorts_gives_the_same_tokens(coarse: bool) -> None:
    batch = [make_request([1, 2, 3], [7, 8, 7], seed=i, **kind) for i, kind in enumerate(KINDS * 10)]
    logits = torch.randn(len(batch), 9001, generator=torch.Generator().manual_seed(0)) * 2
    if coarse:
        logits.round_()
    tokens = [step(logits, batch, tables_for(batch, 9001, sorts=sorts)).tokens for sorts in (False, True)]
    assert torch.equal(*tokens)


def test_the_way_of_graphs_gives_the_same_tokens() -> None:
    batch = [make_request(seed=i, temperature=i % 3 / 2) for i in range(9)]
    logits = torch.randn(12, 1000, generator=torch.Generator().manual_seed(0))
    tables = tables_for(batch, 1000)
    rows, positions = torch.arange(12).clamp(max=9), torch.full((12,), 1)  # padded with the scratch row
    tokens = sample(logits.clone(), rows, positions, tables, SamplingMetadata(has_random=True), None).tokens
    assert torch.equal(tokens[:9], step(logits[:9], batch).tokens)
    assert torch.equal(tokens[9:], logits[9:].argmax(-1))
    assert torch.equal(
        sample(logits.clone(), rows, positions, tables, SamplingMetadata(), None).tokens, logits.argmax(-1)
    )


def test_of_equal_logits_greedy_takes_the_lowest_id() -> None:
    for lines in (1, 3):
        logits = torch.zeros(lines, 200_000)
        logits[:, [70_000, 150_000]] = 1
        assert step(logits, [make_request(temperature=0)] * lines).tokens.tolist() == [70_000] * lines


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_a_broken_line_breaks_no_other(value: float) -> None:
    batch = [make_request([1, 2], [3], seed=i, **kind) for i, kind in enumerate(KINDS)]
    logits = torch.randn(len(batch), 9001, generator=torch.Generator().manual_seed(0))
    whole = step(logits, batch).tokens
    for broken in range(len(batch)):
        some = logits.clone()
        some[broken] = value
        tokens = step(some, batch).tokens
        if value != value:
            assert tokens[broken] == NOT_NUMBERS
        else:
            assert tokens.min() >= (NO_TOKEN if value == -torch.inf else NOT_NUMBERS)
        assert tokens.max() < 9001
        others = torch.arange(len(batch)) != broken
        assert torch.equal(tokens[others], whole[others])


@pytest.mark.parametrize("nan", [torch.nan, -torch.nan])
@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize(("vocabulary", "dtype"), [(500, torch.float32), (9001, torch.bfloat16)])
def test_one_logit_that_is_no_number_shows(vocabulary: int, dtype: torch.dtype, sorts: bool, nan: float) -> None:
    generator = torch.Generator().manual_seed(0)
    for kind in KINDS:
        batch = [make_request([1, 2], [3], seed=i, **kind) for i in range(2 * CHUNK + 1)]
        logits = torch.randn(len(batch), vocabulary, generator=generator).to(dtype)
        broken = torch.arange(len(batch)) % 3 == 0
        logits[broken, vocabulary - 7] = nan
        sampled = step(logits, batch, tables_for(batch, vocabulary, sorts=sorts))
        assert torch.equal(sampled.tokens == NOT_NUMBERS, broken), kind
        assert sampled.inputs.min() >= 0
        assert sampled.inputs.max() < vocabulary  # a step that has begun computes with them
        assert torch.equal(sampled.inputs[~broken], sampled.tokens[~broken])


@pytest.mark.parametrize("random", [False, True])
def test_the_way_of_graphs_shows_what_is_no_number(random: bool) -> None:
    batch = [make_request(seed=i, temperature=float(random and i % 2)) for i in range(9)]
    logits = torch.randn(9, 5000, generator=torch.Generator().manual_seed(0))
    logits[[1, 4], [0, 4999]] = torch.nan
    tables = tables_for(batch, 5000)
    metadata = SamplingMetadata(has_random=random)
    sampled = sample(logits, torch.arange(9), torch.full((9,), 1), tables, metadata, None)
    assert (sampled.tokens == NOT_NUMBERS).nonzero()[:, 0].tolist() == [1, 4]
    assert sampled.inputs.min() >= 0


def test_a_logit_that_is_no_number_and_forbidden_harms_nothing() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    logits[0, 3] = torch.nan  # the token that ends, which min_tokens forbids
    assert step(logits, [make_request(min_tokens=9)]).tokens[0] >= 0


def test_what_is_set_shows_after_a_flush_in_the_same_tensors() -> None:
    tables = SamplingTables(3, 50, CPU, upload)
    storage = tables.floats.data_ptr(), tables.numbers.data_ptr()
    before = tables.floats.clone(), tables.numbers.clone()
    tables.set(1, make_request(temperature=0.5, top_k=4, top_p=0.25, min_p=0.5, presence_penalty=1.5, seed=-9))
    assert torch.equal(tables.floats, before[0])
    tables.flush()
    assert tables.floats[1].tolist() == [0.5, 1.0, 1.5, 0.0]
    assert tables.numbers[1, :4].tolist() == [-9, 4, 2**29, 2**39]
    assert torch.equal(tables.floats[[0, 2, 3]], before[0][[0, 2, 3]])
    tables.clear(1)
    tables.flush()
    assert torch.equal(tables.floats, before[0])
    assert torch.equal(tables.numbers, before[1])
    assert storage == (tables.floats.data_ptr(), tables.numbers.data_ptr())


def test_a_flush_without_changes_uploads_nothing() -> None:
    uploads = []

    def counting(values: Any) -> torch.Tensor:
        uploads.append(values)
        return upload(values)

    tables = SamplingTables(3, 50, CPU, counting)
    uploads.clear()
    tables.flush()
    assert not uploads
    tables.clear(2)
    tables.flush()
    assert uploads


def test_wants_say_what_some_line_asks_for() -> None:
    def metadata(*kinds: dict[str, Any]) -> SamplingMetadata:
        return build_sampling_metadata([make_request(**kind) for kind in kinds])

    greedy, drawing = {"temperature": 0}, {"temperature": 0.5}
    assert not metadata(greedy).has_random
    assert metadata(greedy).is_simple
    assert metadata(greedy, drawing).has_random
    assert metadata(greedy, drawing).is_simple
    assert metadata({"temperature": 0, "top_k": 5}).is_simple  # what a greedy request filters makes no difference
    for kind in ({"top_k": 5}, {"top_k": 500}, {"top_p": 0.5}, {"min_p": 0.1}):
        assert metadata(drawing, kind).has_filters
        assert not metadata(drawing, kind).is_simple
    assert metadata(greedy, {"frequency_penalty": 0.5}).penalties
    assert metadata(greedy, {"logit_bias": {1: 1.0}}).bias
    assert metadata({"allowed_token_ids": [1]}).bias
    assert [metadata(greedy, {"logprobs": n}).logprobs for n in (0, 3)] == [0, 3]
    assert metadata(greedy).logprobs is None
    assert not metadata({"logprobs": 0}).is_simple
    assert not metadata({"logit_bias": {1: 1.0}}).is_simple
    assert metadata().is_simple
    assert not metadata().has_random


def test_wants_of_other_lines_are_refused() -> None:
    tables = tables_for([make_request()], 50)
    with pytest.raises(AssertionError, match="one request for each line"):
        sample(
            torch.zeros(2, 50),
            torch.zeros(2, dtype=torch.int64),
            torch.ones(2),
            tables,
            build_sampling_metadata([make_request()]),
            None,
        )
