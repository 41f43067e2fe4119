"""The block pool against a slow model of it: lists, and searches through them."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dovetail.engine.kv.pool import NULL_BLOCK, BlockPool

BLOCKS = 7


class PoolAgainstLists(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS + 1)
        self.holders = dict.fromkeys(range(1, BLOCKS + 1), 0)
        self.names: dict[int, bytes] = {}
        self.kept: list[int] = []  # longest unused first

    @rule(count=st.integers(1, BLOCKS + 1))
    def take(self, count: int) -> None:
        free = [b for b, n in self.holders.items() if not n]
        blocks = self.pool.allocate(count)
        if count > len(free):
            assert blocks is None
            return
        assert blocks is not None
        assert len(set(blocks)) == count
        assert set(blocks) <= set(free)
        blank = [b for b in free if b not in self.kept]
        evicted = self.kept[: max(0, count - len(blank))]
        assert set(blocks) & set(self.kept) == set(evicted), (
            "only the longest unused may go, and only for want of blank ones"
        )
        for block in blocks:
            self.holders[block] = 1
        for block in evicted:
            self.kept.remove(block)
            del self.names[block]

    @rule(block=st.integers(1, BLOCKS), key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def name(self, block: int, key: bytes) -> None:
        if self.holders[block]:
            self.pool.cache_block(block, key)
            if key not in self.names.values() and block not in self.names:
                self.names[block] = key

    @rule(key=st.sampled_from([b"a", b"b", b"c", b"d"]))
    def hold(self, key: bytes) -> None:
        block = self.pool.find_block(key)
        assert block == next((b for b, k in self.names.items() if k == key), None)
        if block is not None:
            assert self.pool.is_free(block) == (block in self.kept)
            self.pool.add_reference(block)
            self.holders[block] += 1
            if block in self.kept:
                self.kept.remove(block)

    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        held = [b for b, n in self.holders.items() if n]
        if not held:
            return
        blocks = data.draw(st.lists(st.sampled_from(held), unique=True))
        self.pool.free_blocks(blocks)
        for block in blocks:
            self.holders[block] -= 1
            if not self.holders[block] and block in self.names:
                self.kept.append(block)

    @rule()
    def forget(self) -> None:
        self.pool.reset_prefix_cache()
        self.names.clear()
        self.kept.clear()

    @invariant()
    def counts_agree(self) -> None:
        held = sum(n > 0 for n in self.holders.values())
        assert (self.pool.num_used, self.pool.num_free, self.pool.num_blocks) == (held, BLOCKS - held, BLOCKS)


PoolAgainstLists.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestPool = PoolAgainstLists.TestCase


def test_blank_blocks_are_reused_last_freed_first_and_never_the_null_block() -> None:
    pool = BlockPool(9)
    taken = pool.allocate(8)
    assert taken is not None
    assert NULL_BLOCK not in taken
    pool.free_blocks(taken[:3])
    assert pool.allocate(1) == [taken[2]]


def test_freeing_twice_is_caught() -> None:
    pool = BlockPool(4)
    (block,) = pool.allocate(1) or []
    pool.free_blocks([block])
    with pytest.raises(AssertionError, match="twice"):
        pool.free_blocks([block])
