"""The batch's inputs against a slow construction from the requests themselves."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.batch import Batch
from dovetail.engine.kv_cache import KVCacheManager
from dovetail.engine.params import SamplingParams
from dovetail.engine.request import Request
from dovetail.engine.scheduler import Scheduler

BLOCK, LONGEST = 4, 64


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 15)), min_size=1, max_size=8),
    blocks=st.integers(12, 40),
    max_tokens=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_every_step_holds_what_its_requests_hold(
    prompts: list[tuple[int, int]], blocks: int, max_tokens: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    scheduler = Scheduler(4, max_tokens, KVCacheManager(blocks + 1, BLOCK))
    batch = Batch(4, LONGEST, BLOCK, torch.device("cpu"))
    for i, (prompt, output) in enumerate(prompts):
        tokens = torch.randint(1000, (prompt,), generator=generator).tolist()
        scheduler.add(Request(str(i), tokens, SamplingParams(), prompt, prompt + output, frozenset()))
    while not scheduler.idle:
        schedule = scheduler.schedule()
        prepared = batch.prepare(schedule)
        step, sampled = prepared.step, []
        starts = step.query_start.tolist()
        for row, (request, count) in enumerate(schedule.tokens.items()):
            share = slice(starts[row], starts[row + 1])
            positions = list(range(request.computed, request.computed + count))
            assert step.positions[share].tolist() == positions
            assert step.tokens[share].tolist() == [request.tokens[p] for p in positions]
            assert step.slots[share].tolist() == [request.blocks[p // BLOCK] * BLOCK + p % BLOCK for p in positions]
            assert step.seq_lens[row] == request.computed + count
            used = -(-(request.computed + count) // BLOCK)
            assert step.block_tables[row, :used].tolist() == request.blocks[:used]
            # Whatever the row's last owner held is not in it any more.
            assert not step.block_tables[row, len(request.blocks) :].any()
            if request.computed + count == len(request.tokens):
                sampled.append((request, starts[row + 1] - 1))
        assert prepared.sampled == [r for r, _ in sampled]
        assert step.logit_rows.tolist() == [t for _, t in sampled]
        for request, count in schedule.tokens.items():
            request.computed += count
        for request in prepared.sampled:
            batch.append(request, int(torch.randint(1000, (), generator=generator)))
            if len(request.tokens) >= request.max_len:
                scheduler.remove(request)
                batch.remove(request)
    assert len(batch._free) == 4
