"""The pool of KV-cache blocks and who holds them."""

from __future__ import annotations

from dovetail.engine.request import Request

NULL_BLOCK = 0
"""Never given to a request: block tables point here where they are unused."""


class BlockPool:
    """Free blocks, last freed first, so that a lightly used cache stays in few pages of memory."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks - 1
        self._free = list(range(blocks - 1, NULL_BLOCK, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """``count`` blocks, or None (and nothing changed) when there are fewer."""
        if count > len(self._free):
            return None
        return [self._free.pop() for _ in range(count)]

    def give(self, blocks: list[int]) -> None:
        self._free.extend(reversed(blocks))
        assert len(self._free) <= self.total, "a block was freed twice"


class KVCacheManager:
    """Grows and frees the block lists of requests.

    Args:
        blocks: of the cache, the null block included.
        block_size: tokens in a block.
    """

    def __init__(self, blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.pool = BlockPool(blocks)

    def fits(self, request: Request) -> bool:
        """Whether all of the request's tokens would find room now."""
        return self._lacking(request, len(request.tokens)) <= self.pool.free

    def _lacking(self, request: Request, tokens: int) -> int:
        return -(-tokens // self.block_size) - len(request.blocks)

    def grow(self, request: Request, tokens: int) -> bool:
        """Make room for the request's first ``tokens`` tokens; False if the pool lacks blocks."""
        wanted = self._lacking(request, tokens)
        if wanted <= 0:
            return True
        taken = self.pool.take(wanted)
        if taken is None:
            return False
        request.blocks += taken
        return True

    def release(self, request: Request) -> None:
        """Take every block back."""
        self.pool.give(request.blocks)
        request.blocks = []
