"""Blocks of one cache group: which are held, which are free, and which of the free ones can still be found by what they hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

NULL_BLOCK = 0
"""Never given to a request: block tables point here where they are unused."""


class BlockPool:
    """Counts who holds a block; every operation takes constant time for each block.

    A free block is either *blank*, or *kept*: named by a key, and found by it until somebody needs the room. Blank blocks are given out first, the last
    freed before the others, so that a lightly used cache stays in few pages of memory; then the kept ones, the longest unused first.

    Args:
        blocks: of the cache, the null block included.
    """

    def __init__(self, blocks: int) -> None:
        self.num_blocks = blocks - 1
        self._free_uncached = list(range(blocks - 1, NULL_BLOCK, -1))
        self._free_cached: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._reference_counts = [0] * blocks
        self._block_keys: list[bytes | None] = [None] * blocks
        self._cached_blocks: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free_uncached) + len(self._free_cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def allocate(self, count: int) -> list[int] | None:
        """``count`` blocks, held once; or None (and nothing changed) when there are fewer."""
        if count > self.num_free:
            return None
        blocks = []
        for _ in range(count):
            block = self._free_uncached.pop() if self._free_uncached else self._evict()
            self._reference_counts[block] = 1
            blocks.append(block)
        return blocks

    def _evict(self) -> int:
        block, _ = self._free_cached.popitem(last=False)
        key = self._block_keys[block]
        assert key is not None
        del self._cached_blocks[key]
        self._block_keys[block] = None
        return block

    def find_block(self, key: bytes) -> int | None:
        return self._cached_blocks.get(key)

    def is_free(self, block: int) -> bool:
        return not self._reference_counts[block]

    def add_reference(self, block: int) -> None:
        """One holder more for a block that was found."""
        if not self._reference_counts[block]:
            del self._free_cached[block]
        self._reference_counts[block] += 1

    def cache_block(self, block: int, key: bytes) -> None:
        """Make a held block findable. Where another block has the same content already, that one stays the one to be found."""
        if key not in self._cached_blocks and self._block_keys[block] is None:
            self._cached_blocks[key] = block
            self._block_keys[block] = key

    def free_blocks(self, blocks: Iterable[int]) -> None:
        """One holder less for each; those without any become free, the first of them to be evicted first."""
        for block in blocks:
            self._reference_counts[block] -= 1
            assert self._reference_counts[block] >= 0, "a block was freed twice"
            if not self._reference_counts[block]:
                if self._block_keys[block] is None:
                    self._free_uncached.append(block)
                else:
                    self._free_cached[block] = None

    def reset_prefix_cache(self) -> None:
        """Unname every block, held or free."""
        self._free_uncached.extend(self._free_cached)
        self._free_cached.clear()
        for block in self._cached_blocks.values():
            self._block_keys[block] = None
        self._cached_blocks.clear()
