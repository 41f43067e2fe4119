"""The batch's inputs against a slow construction from the requests themselves."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.request.params import SamplingParams
from dovetail.engine.step.input_batch import IN_FLIGHT_TOKEN, MAX_PENDING_CHANGES, InputBatch
from dovetail.engine.step.scheduler import Scheduler
from dovetail.testing.reference import ReferencePlatform

BLOCK, LONGEST, ROWS = 4, 64, 4
FULL, WINDOW = KVCacheGroup(1), KVCacheGroup(1, window=10)


class GraphPlatform(ReferencePlatform):
    """Keeps block tables on the device, as one that captures graphs."""

    supports_graphs = True


@settings(max_examples=80, deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 15)), min_size=1, max_size=8),
    blocks=st.integers(12, 40),
    max_tokens=st.integers(4, 40),
    windowed=st.booleans(),
    drafts=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_step_holds_what_its_requests_hold(
    prompts: list[tuple[int, int]], blocks: int, max_tokens: int, windowed: bool, drafts: bool, seed: int
) -> None:
    rng = random.Random(seed)
    groups = (FULL, WINDOW) if windowed else (FULL,)
    kv = KVCacheManager(groups, [blocks + 1] * len(groups), BLOCK, enable_caching=seed % 2 == 0)
    scheduler = Scheduler(ROWS, max_tokens, kv)
    batch = InputBatch(ROWS, LONGEST, BLOCK, len(groups), GraphPlatform())
    for i, (prompt, output) in enumerate(prompts):
        tokens = [rng.randrange(3) for _ in range(prompt)]
        scheduler.add(Request(str(i), tokens, SamplingParams(), prompt, prompt + output, frozenset(), arrival_index=i))
    while not scheduler.idle:
        schedule = scheduler.schedule()
        for request in schedule.preempted:
            batch.remove(request)
        work = batch.prepare_step(schedule)
        step, places = batch.build_step(work, None)
        batch.flush()
        starts, at = step.query_start.tolist(), 0
        assert step.lengths is not None
        assert step.lengths.query == list(schedule.tokens.values())
        assert (step.max_query_len, step.max_seq_len) == (max(step.lengths.query), max(step.lengths.total))
        for row, (request, count) in enumerate(schedule.tokens.items()):
            share = slice(starts[row], starts[row + 1])
            positions = list(range(request.num_computed_tokens, request.num_computed_tokens + count))
            known = request.tokens + request.draft_token_ids
            assert step.positions[share].tolist() == positions
            assert step.tokens[share].tolist() == [known[p] for p in positions]
            assert step.seq_lens[row] == step.lengths.total[row] == request.num_computed_tokens + count
            assert request.kv_blocks is not None
            for group, (index, table) in enumerate(zip(step.kv, request.kv_blocks.tables, strict=True)):
                assert index.slot_mapping[share].tolist() == [table[p // BLOCK] * BLOCK + p % BLOCK for p in positions]
                used = -(-(request.num_computed_tokens + count) // BLOCK)
                assert index.block_tables[row, :used].tolist() == table[:used]
                # Whatever the row's last owner held is not in it any more, here or on the device.
                assert not index.block_tables[row, len(table) :].any()
                there = batch.tables[group][request.row]
                assert there[: len(table)].tolist() == table
                assert not there[len(table) :].any()
            if request.num_computed_tokens + count >= len(request.tokens):
                checked = request.num_computed_tokens + count - len(request.tokens)
                rows = range(starts[row + 1] - 1 - checked, starts[row + 1])
                span = slice(at, at + checked + 1)
                assert step.logits_indices[span].tolist() == list(rows)
                assert places.rows[span].tolist() == [request.row] * (checked + 1)
                assert places.positions[span].tolist() == [positions[-1] + 1 - checked + i for i in range(checked + 1)]
                assert work.drafts[work.sampled_requests.index(request)] == request.draft_token_ids[:checked]
                at += checked + 1
        assert len(step.logits_indices) == at
        for request, count in schedule.tokens.items():
            request.num_computed_tokens += count
        for request, draft in zip(work.sampled_requests, work.drafts, strict=True):
            request.num_computed_tokens -= len(draft)  # all of them wrong
            batch.append(request, rng.randrange(3))
            room = request.max_len - len(request.tokens) - 1
            request.draft_token_ids = [rng.randrange(3) for _ in range(min(room, rng.randint(0, 3)))] if drafts else []
            if len(request.tokens) >= request.max_len:
                scheduler.remove(request)
                batch.remove(request)
    assert len(batch._free) == ROWS
    assert kv.is_unused
    batch.flush()
    assert not any(table.any() for table in batch.tables)


def a_stream(batch: InputBatch, tokens: int) -> tuple[Scheduler, Request]:
    scheduler = Scheduler(ROWS, 100, KVCacheManager([FULL], [20], BLOCK, enable_caching=True))
    request = Request("r", list(range(tokens)), SamplingParams(), tokens, 60, frozenset())
    scheduler.add(request)
    work = batch.prepare_step(scheduler.schedule())
    assert not work.is_decode, "the device has not sampled for this row"
    request.num_computed_tokens = tokens
    return scheduler, request


def test_a_token_that_the_host_has_not_seen_is_taken_from_the_device() -> None:
    batch = InputBatch(ROWS, LONGEST, BLOCK, 1, ReferencePlatform())
    scheduler, request = a_stream(batch, 5)
    request.num_in_flight_tokens = 1
    work = batch.prepare_step(scheduler.schedule())
    last = torch.full((ROWS + 1,), IN_FLIGHT_TOKEN, dtype=torch.int64)
    last[request.row] = 77
    step, _ = batch.build_step(work, last)
    assert step.tokens.tolist() == [77]
    assert step.positions.tolist() == [5]


def test_only_rows_whose_newest_token_the_device_knows_are_decoded_there() -> None:
    batch = InputBatch(ROWS, LONGEST, BLOCK, 1, GraphPlatform())
    scheduler, request = a_stream(batch, 5)
    batch.append(request, 1)
    assert not batch.prepare_step(scheduler.schedule()).is_decode
    batch.has_device_token[request.row] = True
    assert batch.prepare_step(scheduler.schedule()).is_decode
    scheduler.remove(request)
    batch.remove(request)
    assert not np.any(batch.has_device_token)


def test_changes_of_block_tables_do_not_pile_up_where_no_captured_step_comes() -> None:
    kv = KVCacheManager((FULL,), [100], BLOCK, enable_caching=False)
    scheduler = Scheduler(ROWS, 100, kv)
    batch = InputBatch(ROWS, LONGEST, BLOCK, 1, GraphPlatform())
    for i in range(MAX_PENDING_CHANGES):
        request = Request(str(i), [1, 2, 3], SamplingParams(), 3, 4, frozenset(), arrival_index=i)
        scheduler.add(request)
        batch.build_step(batch.prepare_step(scheduler.schedule()), None)
        scheduler.remove(request)
        batch.remove(request)
    assert len(batch._changes[0]) <= MAX_PENDING_CHANGES + 2
    batch.flush()
    assert not batch.tables[0].any()
