"""What each request holds of the KV cache, and which prefixes can be shared.

A full block is named by a chain of digests: of the block before it, its own tokens, and for the first one the request's ``prefix_key``. Equal names
mean equal prefixes, so a request may begin behind blocks that others have computed.

Letters: B entries of a block table.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

from dovetail.engine.engine_request import Holding, Request
from dovetail.engine.kv.groups import CacheGroup
from dovetail.engine.kv.pool import NULL_BLOCK, BlockPool

DIGEST_BYTES = 16


@dataclass
class Prefix:
    """Blocks that hold the beginning of a request's tokens: for each group, a table like :attr:`Holding.tables`."""

    tokens: int
    tables: list[list[int]]


class KVCacheManager:
    """Grows, shares and frees the block tables of requests.

    Args:
        groups: of the model's layers.
        counts: blocks of each group, the null block included.
        block_size: tokens in a block.
        caching: keep what was computed for requests that begin alike.
    """

    def __init__(self, groups: Sequence[CacheGroup], counts: Sequence[int], block_size: int, caching: bool) -> None:
        self.groups = tuple(groups)
        self.block_size = block_size
        self.pools = [BlockPool(n) for n in counts]
        # A recurrent state stands for one exact prefix, and is overwritten by the next token.
        self.caching = caching and all(g.kind != "recurrent" for g in groups)
        self._windows = [i for i, g in enumerate(self.groups) if g.window is not None]
        # Names are digests under a key that nobody else knows, so that no prompt can be made to collide with another's.
        self._secret = os.urandom(DIGEST_BYTES)
        self.queries = 0
        self.hits = 0

    @property
    def usage(self) -> float:
        """The largest share of any group's blocks that requests hold."""
        return max((p.held / p.total for p in self.pools), default=0.0)

    @property
    def whole(self) -> bool:
        """Whether nobody holds anything."""
        return not any(p.held for p in self.pools)

    # -- the prefix cache

    def find(self, request: Request) -> Prefix:
        """The longest prefix of the request's tokens that is in the cache; at least one token is left to compute."""
        nothing = Prefix(0, [[] for _ in self.groups])
        if not self.caching or request.needs_all:
            return nothing
        names = self._names(request, (len(request.tokens) - 1) // self.block_size)
        limit = len(names)
        whole = [i for i, g in enumerate(self.groups) if g.window is None]
        tables: list[list[int]] = [[] for _ in self.groups]
        for i in whole:
            pool, table = self.pools[i], tables[i]
            for name in names[:limit]:
                if (block := pool.find(name)) is None:
                    break
                table.append(block)
            limit = len(table)
        # A window's layers need only the blocks that the next token sees; the prefix may have to be shorter for them.
        found = self._windows_hold(names, limit)
        if not found:
            return nothing
        for i in whole:
            del tables[i][found:]
        for i in self._windows:
            first = self.groups[i].first_needed(found * self.block_size, self.block_size)
            tables[i] = [NULL_BLOCK] * first + [self._known(i, name) for name in names[first:found]]
        return Prefix(found * self.block_size, tables)

    def _windows_hold(self, names: list[bytes], limit: int) -> int:
        while limit:
            missing = -1
            for i in self._windows:
                first = self.groups[i].first_needed(limit * self.block_size, self.block_size)
                pool = self.pools[i]
                for place in range(limit - 1, first - 1, -1):
                    if pool.find(names[place]) is None:
                        missing = max(missing, place)
                        break
            if missing < 0:
                return limit
            limit = missing  # no longer prefix can do without that block
        return 0

    def _known(self, group: int, name: bytes) -> int:
        block = self.pools[group].find(name)
        assert block is not None
        return block

    def _names(self, request: Request, count: int) -> list[bytes]:
        """Digests of the request's first ``count`` full blocks."""
        names = request.block_names
        if len(names) < count:
            size = self.block_size
            parent = names[-1] if names else request.prefix_key.encode()
            tokens = array("i", request.tokens[len(names) * size : count * size]).tobytes()
            step = size * array("i").itemsize
            for start in range(0, len(tokens), step):
                parent = blake2b(
                    parent + tokens[start : start + step], digest_size=DIGEST_BYTES, key=self._secret
                ).digest()
                names.append(parent)
        return names if len(names) == count else names[:count]

    def forget(self) -> None:
        """Empty the prefix cache; requests that run keep their blocks."""
        for pool in self.pools:
            pool.forget()

    # -- what requests hold

    def fits(self, request: Request, prefix: Prefix, chunk: int) -> bool:
        """Whether all of the request's tokens would find room now, behind this prefix, in steps of at most ``chunk`` tokens."""
        total = request.total
        for group, pool, table in zip(self.groups, self.pools, prefix.tables, strict=True):
            shared = sum(block != NULL_BLOCK for block in table)
            revived = sum(block != NULL_BLOCK and pool.is_free(block) for block in table)
            most = group.most_held(total, chunk, self.block_size)
            if group.window is not None:
                most = min(most, pool.total)  # with fewer blocks than that, it is computed in smaller chunks
            if most - shared + revived > pool.free:
                return False
        return True

    def admit(self, request: Request, prefix: Prefix) -> None:
        """Begin to hold: the prefix's blocks count as computed."""
        assert request.kv is None
        for pool, table in zip(self.pools, prefix.tables, strict=True):
            for block in table:
                if block != NULL_BLOCK:
                    pool.hold(block)
        passed = [0] * len(self.groups)
        for i in self._windows:
            passed[i] = self.groups[i].first_needed(prefix.tokens, self.block_size)
        request.kv = Holding([list(t) for t in prefix.tables], passed, prefix.tokens // self.block_size)
        request.computed = prefix.tokens
        if self.caching:
            self.queries += len(request.tokens)
            self.hits += prefix.tokens

    def grow(self, request: Request, tokens: int) -> bool:
        """Make room for the request's first ``tokens`` tokens; False, and nothing changed, if a pool lacks blocks."""
        held = request.kv
        assert held is not None
        size = self.block_size
        if self._windows:
            self._slide(request)
        if tokens <= held.room:  # as in most steps of a stream
            return True
        lacking = [g.entries(tokens, size) - len(t) for g, t in zip(self.groups, held.tables, strict=True)]
        if any(n > p.free for n, p in zip(lacking, self.pools, strict=True)):
            return False
        for count, pool, table in zip(lacking, self.pools, held.tables, strict=True):
            if count > 0:
                taken = pool.take(count)
                assert taken is not None
                table += taken
        held.room = -(-tokens // size) * size
        return True

    def _slide(self, request: Request) -> None:
        """Free the blocks that windows have passed."""
        held = request.kv
        assert held is not None
        for i in self._windows:
            first, table = self.groups[i].first_needed(request.computed, self.block_size), held.tables[i]
            if first > held.passed[i]:
                gone = range(held.passed[i], min(first, len(table)))
                self.pools[i].give([table[place] for place in gone])
                for place in gone:
                    table[place] = NULL_BLOCK
                held.passed[i] = gone.stop

    def publish(self, request: Request, computed: int) -> None:
        """Name the full blocks among the request's first ``computed`` tokens, so that others find them. What the step in hand computes counts:
        whoever finds a block reads it after it was written.
        """
        held = request.kv
        assert held is not None
        if not self.caching or computed < (held.named + 1) * self.block_size:
            return
        full = min(computed, len(request.tokens)) // self.block_size
        if full <= held.named:
            return
        names = self._names(request, full)
        for i, (pool, table) in enumerate(zip(self.pools, held.tables, strict=True)):
            for place in range(max(held.named, held.passed[i]), full):
                pool.name(table[place], names[place])
        held.named = full

    def release(self, request: Request) -> None:
        """Take every block back. Of what stays in the prefix cache, the end of the sequence is forgotten before its beginning."""
        held = request.kv
        if held is None:
            return
        for pool, table, passed in zip(self.pools, held.tables, held.passed, strict=True):
            pool.give(reversed(table[passed:]))
        request.kv = None
