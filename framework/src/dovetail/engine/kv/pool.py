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
        self.total = blocks - 1
        self._blank = list(range(blocks - 1, NULL_BLOCK, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # longest unused first
        self._holders = [0] * blocks
        self._keys: list[bytes | None] = [None] * blocks
        self._named: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        return len(self._blank) + len(self._kept)

    @property
    def held(self) -> int:
        return self.total - self.free

    def take(self, count: int) -> list[int] | None:
        """``count`` blocks, held once; or None (and nothing changed) when there are fewer."""
        if count > self.free:
            return None
        blocks = []
        for _ in range(count):
            block = self._blank.pop() if self._blank else self._evict()
            self._holders[block] = 1
            blocks.append(block)
        return blocks

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        key = self._keys[block]
        assert key is not None
        del self._named[key]
        self._keys[block] = None
        return block

    def find(self, key: bytes) -> int | None:
        return self._named.get(key)

    def is_free(self, block: int) -> bool:
        return not self._holders[block]

    def hold(self, block: int) -> None:
        """One holder more for a block that was found."""
        if not self._holders[block]:
            del self._kept[block]
        self._holders[block] += 1

    def name(self, block: int, key: bytes) -> None:
        """Make a held block findable. Where another block has the same content already, that one stays the one to be found."""
        if key not in self._named and self._keys[block] is None:
            self._named[key] = block
            self._keys[block] = key

    def give(self, blocks: Iterable[int]) -> None:
        """One holder less for each; those without any become free, the first of them to be evicted first."""
        for block in blocks:
            self._holders[block] -= 1
            assert self._holders[block] >= 0, "a block was freed twice"
            if not self._holders[block]:
                if self._keys[block] is None:
                    self._blank.append(block)
                else:
                    self._kept[block] = None

    def forget(self) -> None:
        """Unname every block, held or free."""
        self._blank.extend(self._kept)
        self._kept.clear()
        for block in self._named.values():
            self._keys[block] = None
        self._named.clear()
