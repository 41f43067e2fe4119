"""Sharing of prefixes, sliding windows, and that nothing leaks."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.engine_request import Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.manager import KVCacheManager
from dovetail.engine.kv.pool import NULL_BLOCK
from dovetail.engine.request.params import SamplingParams

BLOCK = 4
FULL, WINDOW, CHUNK = KVCacheGroup(1), KVCacheGroup(1, window=6), KVCacheGroup(1, chunk=6)


def make(tokens: list[int], prefix_key: str = "", **params: int) -> Request:
    return Request("r", list(tokens), SamplingParams(**params), len(tokens), 10_000, frozenset(), prefix_key=prefix_key)


def manager(
    blocks: int = 32, groups: tuple[KVCacheGroup, ...] = (FULL,), enable_caching: bool = True
) -> KVCacheManager:
    return KVCacheManager(groups, [blocks + 1] * len(groups), BLOCK, enable_caching)


def compute(kv: KVCacheManager, request: Request, chunk: int = 10_000) -> int:
    """Admit and compute a request; the tokens that were found."""
    prefix = kv.find_prefix(request)
    kv.claim_prefix(request, prefix)
    while request.num_pending_tokens:
        count = min(request.num_pending_tokens, chunk)
        assert kv.allocate_slots(request, request.num_computed_tokens + count)
        kv.cache_blocks(request, request.num_computed_tokens + count)
        request.num_computed_tokens += count
    return prefix.tokens


def test_a_prompt_that_was_computed_is_found_but_for_its_last_token() -> None:
    kv = manager()
    prompt = list(range(100, 112))
    first = make(prompt)
    assert compute(kv, first) == 0
    table = list(first.kv_blocks.tables[0]) if first.kv_blocks else []
    second = make(prompt)
    assert compute(kv, second) == 8, "the last token's logits have to be computed"
    assert second.kv_blocks is not None
    assert second.kv_blocks.tables[0][:2] == table[:2]
    assert (kv.queries, kv.hits) == (24, 8)


def test_prefixes_are_shared_by_requests_that_run_and_by_those_that_ended() -> None:
    kv = manager()
    base = list(range(20))
    one, two = make([*base, 1]), make([*base, 2])
    compute(kv, one)
    assert compute(kv, two) == 20
    assert kv.pools[0].num_used == 7
    kv.release(one)
    kv.release(two)
    assert kv.is_unused
    assert compute(kv, make([*base, 3])) == 20


@pytest.mark.parametrize("key", ["salt:x", "lora:1"])
def test_salt_and_adapter_keep_prefixes_apart(key: str) -> None:
    kv = manager()
    compute(kv, make(list(range(12))))
    assert compute(kv, make(list(range(12)), key)) == 0
    assert compute(kv, make(list(range(12)), key)) == 8


def test_equal_blocks_behind_different_beginnings_are_different() -> None:
    kv = manager()
    compute(kv, make([1, 1, 1, 1, 5, 6, 7, 8, 9]))
    assert compute(kv, make([2, 2, 2, 2, 5, 6, 7, 8, 9])) == 0


def test_without_caching_nothing_is_found() -> None:
    kv = manager(enable_caching=False)
    compute(kv, make(list(range(12))))
    assert compute(kv, make(list(range(12)))) == 0
    assert kv.queries == 0


def test_prompt_logprobs_need_every_token() -> None:
    kv = manager()
    compute(kv, make(list(range(12))))
    assert compute(kv, make(list(range(12)), prompt_logprobs=1)) == 0


def test_the_end_of_a_sequence_is_forgotten_before_its_beginning() -> None:
    kv = manager(blocks=6)
    compute(kv, first := make(list(range(20))))
    kv.release(first)
    other = make([7] * 12)
    compute(kv, other)
    kv.release(other)
    assert kv.find_prefix(make(list(range(20)))).tokens == 12


def test_forgetting_leaves_running_requests_their_blocks() -> None:
    kv = manager()
    compute(kv, request := make(list(range(12))))
    kv.reset_prefix_cache()
    assert kv.pools[0].num_used == 3
    assert kv.find_prefix(make(list(range(12)))).tokens == 0
    kv.release(request)
    assert kv.is_unused


def test_a_request_does_not_fit_where_the_blocks_it_would_revive_are_all_that_is_free() -> None:
    kv = manager(blocks=5)
    compute(kv, first := make(list(range(12))))
    kv.release(first)
    compute(kv, make([99]))
    again = make(list(range(20)))
    assert kv.find_prefix(again).tokens == 12
    assert not kv.can_fit(again, kv.find_prefix(again), 100)
    shorter = make(list(range(16)))
    assert kv.can_fit(shorter, kv.find_prefix(shorter), 100)


def test_a_window_frees_what_it_has_passed() -> None:
    kv = manager(groups=(FULL, WINDOW), enable_caching=False)
    request = make(list(range(40)))
    compute(kv, request, chunk=4)
    assert kv.allocate_slots(request, 41)
    assert request.kv_blocks is not None
    full, sliding = request.kv_blocks.tables
    # The token at position 40 sees positions 35 to 40, which begin in block 8.
    assert len(full) == len(sliding) == 11
    assert [b == NULL_BLOCK for b in sliding] == [True] * 8 + [False] * 3
    assert kv.pools[1].num_used == 3
    kv.release(request)
    assert kv.is_unused


def test_a_prefix_is_found_as_long_as_its_last_window_is() -> None:
    kv = manager(blocks=12, groups=(FULL, WINDOW))
    compute(kv, first := make(list(range(40))), chunk=4)
    kv.release(first)
    found = kv.find_prefix(make([*range(40), 1]))
    assert found.tokens == 40
    # Positions 35 to 39 are what the next token sees of them.
    assert [b == NULL_BLOCK for b in found.tables[1]] == [True] * 8 + [False] * 2
    assert kv.find_prefix(make([*range(20), 99])).tokens == 20, (
        "blocks that a window passed are still known while nobody needs the room"
    )
    kv.pools[1].allocate(9)  # the blocks that were passed first are the longest unused
    assert kv.find_prefix(make([*range(20), 99])).tokens == 0
    assert kv.find_prefix(make([*range(40), 1])).tokens == 40


def test_where_a_chunk_begins_nothing_before_it_is_needed() -> None:
    kv = manager(64, (KVCacheGroup(1, chunk=8),))
    compute(kv, make(list(range(20))), chunk=4)
    table = kv.find_prefix(make([*range(16), 99])).tables[0]
    assert table == [NULL_BLOCK] * 4, "the next token begins a chunk"
    table = kv.find_prefix(make([*range(20), 99])).tables[0]
    assert table[:4] == [NULL_BLOCK] * 4
    assert table[4] != NULL_BLOCK


def test_without_groups_nothing_is_kept() -> None:
    kv = manager(0, ())
    assert compute(kv, make(list(range(20)))) == 0
    assert compute(kv, make(list(range(20)))) == 0
    assert (kv.is_unused, kv.usage, kv.queries) == (True, 0.0, 0)


@settings(max_examples=60, deadline=None)
@given(
    prompts=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=30), min_size=1, max_size=12),
    groups=st.sampled_from([(FULL,), (FULL, WINDOW), (CHUNK,), (CHUNK, FULL, WINDOW)]),
    chunk=st.integers(1, 9),
    blocks=st.integers(9, 24),
)
def test_found_blocks_hold_what_would_have_been_computed(
    prompts: list[list[int]], groups: tuple[KVCacheGroup, ...], chunk: int, blocks: int
) -> None:
    """A cache that remembers what was written into each block, checked at each hit."""
    kv = manager(blocks, groups)
    written: list[dict[int, tuple[int, ...]]] = [{} for _ in kv.groups]
    for prompt in prompts:
        request = make(prompt)
        prefix = kv.find_prefix(request)
        assert prefix.tokens % BLOCK == 0
        assert prefix.tokens < len(prompt)
        for group, table in enumerate(prefix.tables):
            first = kv.groups[group].first_visible_block(prefix.tokens, BLOCK)
            for place, block in enumerate(table):
                if place >= first:
                    assert written[group][block] == tuple(prompt[: (place + 1) * BLOCK])
        kv.claim_prefix(request, prefix)
        while request.num_pending_tokens:
            count = min(request.num_pending_tokens, chunk)
            assert kv.allocate_slots(request, request.num_computed_tokens + count)
            assert request.kv_blocks is not None
            for position in range(request.num_computed_tokens, request.num_computed_tokens + count):
                for group, table in enumerate(request.kv_blocks.tables):
                    block = table[position // BLOCK]
                    assert block != NULL_BLOCK
                    written[group][block] = tuple(prompt[: position + 1])
            kv.cache_blocks(request, request.num_computed_tokens + count)
            request.num_computed_tokens += count
        kv.release(request)
        assert kv.is_unused
