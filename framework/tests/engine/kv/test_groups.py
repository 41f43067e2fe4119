"""Memory is planned for all cache groups together."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine.kv.groups import KVCacheGroup, max_tokens_that_fit, plan_num_blocks

SIZES = {"block_size": 16, "max_seqs": 8, "max_len": 4096, "max_tokens": 512}


def test_one_group_gets_the_whole_budget() -> None:
    group = KVCacheGroup(1000)
    assert plan_num_blocks([group], 100_500, **SIZES) == [100]
    assert max_tokens_that_fit([group], [100], block_size=16) == 99 * 16


def test_no_more_than_twice_what_can_be_in_use() -> None:
    assert plan_num_blocks([KVCacheGroup(1)], 10**9, **SIZES) == [1 + 2 * 8 * 256]


def test_what_was_asked_for_in_bytes_or_blocks_is_not_capped() -> None:
    full, sliding = KVCacheGroup(1), KVCacheGroup(1, window=16)
    assert plan_num_blocks([full], 10**7, capped=False, **SIZES) == [10**7]
    assert plan_num_blocks([full], 7, num_blocks=10**6, **SIZES) == [1 + 10**6]
    assert plan_num_blocks([full, sliding], 7, num_blocks=5, **SIZES) == [6, 6]


def test_a_window_gets_what_its_sequences_hold_and_the_rest_goes_to_full_layers() -> None:
    full, sliding = KVCacheGroup(1000), KVCacheGroup(5000, window=128)
    counts = plan_num_blocks([full, sliding], 4_000_000, **SIZES)
    assert counts[1] == 1 + 8 * (8 + 2) + 32
    alone = plan_num_blocks([KVCacheGroup(6000)], 4_000_000, **SIZES)
    assert counts[0] > 5 * alone[0]


def test_a_recurrent_state_is_one_block_a_sequence() -> None:
    counts = plan_num_blocks([KVCacheGroup(10_000, recurrent=True), KVCacheGroup(100)], 1_000_000, **SIZES)
    assert counts[0] == 9
    assert max_tokens_that_fit([KVCacheGroup(1, recurrent=True)], [9], block_size=16) is None


def test_a_budget_that_holds_nothing_says_so() -> None:
    assert plan_num_blocks([KVCacheGroup(1000), KVCacheGroup(1000)], 3_999, **SIZES) == [0, 0]


@settings(max_examples=100, deadline=None)
@given(
    budget=st.integers(10_000, 10**7),
    windows=st.lists(st.one_of(st.none(), st.integers(1, 300)), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 4000), min_size=3, max_size=3),
)
def test_the_plan_fits_and_one_more_block_would_not(budget: int, windows: list[int | None], sizes: list[int]) -> None:
    groups = [KVCacheGroup(b, w) for w, b in zip(windows, sizes, strict=False)]
    counts = plan_num_blocks(groups, budget, **SIZES)
    used = sum(n * g.block_bytes for n, g in zip(counts, groups, strict=True))
    assert used <= budget
    whole = [i for i, g in enumerate(groups) if g.window is None]
    if whole and any(counts):
        assert len({counts[i] for i in whole}) == 1
        if counts[whole[0]] < 1 + 2 * 8 * 256:
            assert used + sum(g.block_bytes for g in groups) > budget


@pytest.mark.parametrize(("computed", "first"), [(0, 0), (99, 0), (100, 0), (104, 0), (107, 1), (207, 13)])
def test_a_window_needs_no_block_that_lies_wholly_before_it(computed: int, first: int) -> None:
    # The token at position 107 sees positions 8 to 107 of a window of 100.
    group = KVCacheGroup(1, window=100)
    assert group.first_visible_block(computed, 8) == first
    seen = range(max(0, computed - 99), computed + 1)
    assert seen[0] // 8 == first


@pytest.mark.parametrize(("computed", "first"), [(0, 0), (99, 0), (100, 12), (107, 12), (199, 12), (200, 25)])
def test_a_chunk_needs_no_block_before_its_own(computed: int, first: int) -> None:
    group = KVCacheGroup(1, chunk=100)
    assert group.first_visible_block(computed, 8) == first


def test_a_chunk_is_planned_as_a_window_of_its_size() -> None:
    for other in (KVCacheGroup(5000, window=128), KVCacheGroup(5000, chunk=128)):
        assert plan_num_blocks([KVCacheGroup(1000), other], 4_000_000, **SIZES)[1] == 1 + 8 * (8 + 2) + 32


@settings(max_examples=200, deadline=None)
@given(
    span=st.integers(1, 40),
    chunked=st.booleans(),
    block_size=st.sampled_from([1, 4, 16]),
    count=st.integers(2, 20),
    new=st.integers(1, 30),
)
def test_without_a_limit_what_is_seen_fits_wherever_it_stands(
    span: int, chunked: bool, block_size: int, count: int, new: int
) -> None:
    group = KVCacheGroup(1, chunk=span) if chunked else KVCacheGroup(1, window=span)
    for computed in range(3 * (span + block_size)):
        held = -(-(computed + new) // block_size) - group.first_visible_block(computed, block_size)
        assert held <= group.max_blocks_held(computed + new, new, block_size)
    if max_tokens_that_fit([group], [count], block_size=block_size) is None:
        for computed in range(3 * (span + block_size)):  # the step that computes one token more
            held = computed // block_size - group.first_visible_block(computed, block_size) + 1
            assert held <= count - 1
