"""The KV cache of requests: their blocks, and the prefix cache with its chain of block hashes.

A full block has a hash of the previous block's hash, its own tokens and the images in it; the first also of the
request's ``prefix_key``.
Equal hashes mean equal prefixes, so a request can reuse blocks that others have computed.

Letters: B entries of a block table.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from dovetail.engine.engine_request import KVCacheBlocks, Request
from dovetail.engine.kv.groups import KVCacheGroup
from dovetail.engine.kv.pool import NULL_BLOCK, BlockPool

DIGEST_BYTES = 16


@dataclass
class CachedPrefix:
    """Cached blocks for the beginning of a request: for each group, a table like :attr:`KVCacheBlocks.tables`."""

    tokens: int
    tables: list[list[int]]


class KVCacheManager:
    """Allocates, shares and frees the blocks of requests.

    Args:
        groups: of the model's layers.
        counts: blocks of each group, the null block included.
        block_size: tokens in a block.
        enable_caching: use the prefix cache.
    """

    def __init__(
        self, groups: Sequence[KVCacheGroup], counts: Sequence[int], block_size: int, enable_caching: bool
    ) -> None:
        self.groups = tuple(groups)
        self.block_size = block_size
        self.pools = [BlockPool(n) for n in counts]
        # A recurrent state belongs to one exact prefix, and is overwritten by the next token. Without groups nothing is
        # kept that could be reused.
        self.enable_caching = enable_caching and bool(groups) and all(not g.recurrent for g in groups)
        self._windows = [i for i, g in enumerate(self.groups) if g.span is not None]
        # Hashes use a secret key, so that nobody can construct a prompt that collides with another.
        self._hash_key = os.urandom(DIGEST_BYTES)
        self.queries = 0
        self.hits = 0

    @property
    def usage(self) -> float:
        """The share of blocks in use, in the group where it is largest."""
        return max((p.num_used / p.num_blocks for p in self.pools), default=0.0)

    @property
    def is_unused(self) -> bool:
        """Whether no request holds blocks."""
        return not any(p.num_used for p in self.pools)

    # -- the prefix cache

    def find_prefix(self, request: Request) -> CachedPrefix:
        """The longest cached prefix of the request's tokens. At least one token is left to compute."""
        nothing = CachedPrefix(0, [[] for _ in self.groups])
        if not self.enable_caching or request.skip_prefix_cache:
            return nothing
        names = self._hash_blocks(request, (len(request.tokens) - 1) // self.block_size)
        limit = len(names)
        whole = [i for i, g in enumerate(self.groups) if g.span is None]
        tables: list[list[int]] = [[] for _ in self.groups]
        for i in whole:
            pool, table = self.pools[i], tables[i]
            for name in names[:limit]:
                if (block := pool.find_block(name)) is None:
                    break
                table.append(block)
            limit = len(table)
        # Layers with a window or chunks need only the blocks that the next token sees; the prefix may have to be shorter for them.
        found = self._find_windowed_prefix(names, limit)
        if not found:
            return nothing
        for i in whole:
            del tables[i][found:]
        for i in self._windows:
            first = self.groups[i].first_visible_block(found * self.block_size, self.block_size)
            tables[i] = [NULL_BLOCK] * first + [self._find_block(i, name) for name in names[first:found]]
        return CachedPrefix(found * self.block_size, tables)

    def _find_windowed_prefix(self, names: list[bytes], limit: int) -> int:
        while limit:
            missing = -1
            for i in self._windows:
                first = self.groups[i].first_visible_block(limit * self.block_size, self.block_size)
                pool = self.pools[i]
                for place in range(limit - 1, first - 1, -1):
                    if pool.find_block(names[place]) is None:
                        missing = max(missing, place)
                        break
            if missing < 0:
                return limit
            limit = missing  # no longer prefix can do without that block
        return 0

    def _find_block(self, group: int, name: bytes) -> int:
        block = self.pools[group].find_block(name)
        assert block is not None
        return block

    def _hash_blocks(self, request: Request, count: int) -> list[bytes]:
        """Hashes of the request's first ``count`` full blocks."""
        names = request.block_hashes
        if len(names) < count:
            size = self.block_size
            parent = names[-1] if names else request.prefix_key.encode()
            tokens = array("i", request.tokens[len(names) * size : count * size]).tobytes()
            step = size * array("i").itemsize
            for start in range(0, len(tokens), step):
                content = parent + tokens[start : start + step]
                if request.images:
                    content += _name_images(request, len(names) * size, size)
                parent = blake2b(content, digest_size=DIGEST_BYTES, key=self._hash_key).digest()
                names.append(parent)
        return names if len(names) == count else names[:count]

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache. Running requests keep their blocks."""
        for pool in self.pools:
            pool.reset_prefix_cache()

    # -- what requests hold

    def can_fit(self, request: Request, prefix: CachedPrefix, chunk: int) -> bool:
        """Whether there are enough free blocks for the whole request after this prefix, computed in steps of at most
        ``chunk`` tokens.
        """
        total = request.num_tokens
        for group, pool, table in zip(self.groups, self.pools, prefix.tables, strict=True):
            shared = sum(block != NULL_BLOCK for block in table)
            revived = sum(block != NULL_BLOCK and pool.is_free(block) for block in table)
            most = group.max_blocks_held(total, chunk, self.block_size)
            if group.span is not None:
                most = min(most, pool.num_blocks)  # with fewer blocks than that, it is computed in smaller chunks
            if most - shared + revived > pool.num_free:
                return False
        return True

    def claim_prefix(self, request: Request, prefix: CachedPrefix) -> None:
        """Give the prefix's blocks to the request; their tokens count as computed."""
        assert request.kv_blocks is None
        for pool, table in zip(self.pools, prefix.tables, strict=True):
            for block in table:
                if block != NULL_BLOCK:
                    pool.add_reference(block)
        passed = [0] * len(self.groups)
        for i in self._windows:
            passed[i] = self.groups[i].first_visible_block(prefix.tokens, self.block_size)
        request.kv_blocks = KVCacheBlocks([list(t) for t in prefix.tables], passed, prefix.tokens // self.block_size)
        request.num_computed_tokens = prefix.tokens
        if self.enable_caching:
            self.queries += len(request.tokens)
            self.hits += prefix.tokens

    def allocate_slots(self, request: Request, tokens: int) -> bool:
        """Allocate blocks for the request's first ``tokens`` tokens. Returns False, without changes, if a pool has too
        few blocks.
        """
        held = request.kv_blocks
        assert held is not None
        size = self.block_size
        if self._windows:
            self._free_out_of_window(request)
        if tokens <= held.capacity:  # as in most steps of a stream
            return True
        lacking = [g.num_blocks(tokens, size) - len(t) for g, t in zip(self.groups, held.tables, strict=True)]
        if any(n > p.num_free for n, p in zip(lacking, self.pools, strict=True)):
            return False
        for count, pool, table in zip(lacking, self.pools, held.tables, strict=True):
            if count > 0:
                taken = pool.allocate(count)
                assert taken is not None
                table += taken
        held.capacity = -(-tokens // size) * size
        return True

    def _free_out_of_window(self, request: Request) -> None:
        """Free the blocks that have left the window."""
        held = request.kv_blocks
        assert held is not None
        for i in self._windows:
            first, table = (
                self.groups[i].first_visible_block(request.num_computed_tokens, self.block_size),
                held.tables[i],
            )
            if first > held.num_out_of_window[i]:
                gone = range(held.num_out_of_window[i], min(first, len(table)))
                self.pools[i].free_blocks([table[place] for place in gone])
                for place in gone:
                    table[place] = NULL_BLOCK
                held.num_out_of_window[i] = gone.stop

    def cache_blocks(self, request: Request, computed: int) -> None:
        """Put the full blocks of the request's first ``computed`` tokens into the prefix cache.

        Blocks of the current step are included: a later reader runs after they are written.
        """
        held = request.kv_blocks
        assert held is not None
        if not self.enable_caching or computed < (held.num_cached_blocks + 1) * self.block_size:
            return
        full = min(computed, len(request.tokens)) // self.block_size
        if full <= held.num_cached_blocks:
            return
        names = self._hash_blocks(request, full)
        for i, (pool, table) in enumerate(zip(self.pools, held.tables, strict=True)):
            for place in range(max(held.num_cached_blocks, held.num_out_of_window[i]), full):
                pool.cache_block(table[place], names[place])
        held.num_cached_blocks = full

    def release(self, request: Request) -> None:
        """Free all blocks of a request. In the prefix cache, later blocks of the sequence are evicted before earlier
        ones.
        """
        held = request.kv_blocks
        if held is None:
            return
        for pool, table, passed in zip(self.pools, held.tables, held.num_out_of_window, strict=True):
            pool.free_blocks(reversed(table[passed:]))
        request.kv_blocks = None


def _name_images(request: Request, first: int, size: int) -> bytes:
    """The keys of the images in a block of ``size`` tokens from ``first`` on, and where they begin: their placeholders are
    equal tokens.
    """
    return b"".join(
        image.key + (image.start - first).to_bytes(8, "little", signed=True)
        for image in request.images
        if image.start < first + size and image.start + image.length > first
    )
