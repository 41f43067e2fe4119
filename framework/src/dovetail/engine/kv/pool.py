"""The block pool of one cache group: reference counts, free blocks, and free blocks that are still in the prefix cache."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

NULL_BLOCK = 0
"""The null block: never allocated. Unused entries of block tables point to it."""


class BlockPool:
    """Counts references to blocks. Every operation takes constant time for each block.

    A free block is either blank, or cached: it has a key, and can be found by it until it is evicted. Blank blocks are
    allocated first, the most recently freed one before the others, so that a lightly used cache touches few pages of
    memory. Then cached blocks are evicted, the least recently used first.

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
        """Allocate ``count`` blocks with one reference each; None, without changes, if there are fewer."""
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
        """Add a reference to a block that was found."""
        if not self._reference_counts[block]:
            del self._free_cached[block]
        self._reference_counts[block] += 1

    def cache_block(self, block: int, key: bytes) -> None:
        """Give a block in use its key. If another block has the same key already, that one stays in the prefix cache."""
        if key not in self._cached_blocks and self._block_keys[block] is None:
            self._cached_blocks[key] = block
            self._block_keys[block] = key

    def free_blocks(self, blocks: Iterable[int]) -> None:
        """Decrease the reference counts. Blocks at zero become free, and are evicted in the given order."""
        for block in blocks:
            self._reference_counts[block] -= 1
            assert self._reference_counts[block] >= 0, "a block was freed twice"
            if not self._reference_counts[block]:
                if self._block_keys[block] is None:
                    self._free_uncached.append(block)
                else:
                    self._free_cached[block] = None

    def reset_prefix_cache(self) -> None:
        """Remove the keys of all blocks, used or free."""
        self._free_uncached.extend(self._free_cached)
        self._free_cached.clear()
        for block in self._cached_blocks.values():
            self._block_keys[block] = None
        self._cached_blocks.clear()
