"""The cache of compiled grammars, bounded by bytes."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from dovetail.api.grammar import Grammar, GrammarSource
from dovetail.utils.process_memory import release_free_memory

MAX_BYTES = 256 << 20
"""Most memory for compiled grammars, used or not. Those in use may exceed it: by the last ones that were compiled, and by
what they grow; then no others are compiled until some of them have ended.
"""
MIN_BYTES = 64 << 10
"""What each grammar counts for at least, whatever its backend says of it."""
RELEASE_BYTES = 32 << 20
"""So much freed memory is returned to the operating system at once."""


class Compiled(NamedTuple):
    """What a compilation has made.

    Attributes:
        first_mask: of the tokens that an output may begin with; int32 ``[ceil(V / 32)]``, read-only.
    """

    grammar: Grammar
    first_mask: np.ndarray


@dataclass(eq=False)
class CacheEntry:
    """A grammar that is compiled, or being compiled.

    Attributes:
        users: an item for each sequence that uses it. Lists change atomically, so that garbage collection can take an
            item away in any thread.
        measured_bytes: what the process grew by meanwhile, for backends that cannot tell.
    """

    source: GrammarSource
    compiled: Future[Compiled] = field(default_factory=Future)
    users: list[None] = field(default_factory=list)
    measured_bytes: int = 0

    def release(self) -> None:
        self.users.pop()

    @property
    def num_bytes(self) -> int:
        size = sys.getsizeof(self.source.text)
        if not self.compiled.done() or self.compiled.exception() is not None:
            return size
        told = self.compiled.result().grammar.num_bytes
        return size + max(self.measured_bytes if told is None else told, MIN_BYTES)


class GrammarCache:
    """Compiled grammars by their sources. Those in use stay; of the others, the least recently used are dropped first.

    Args:
        max_bytes: see :data:`MAX_BYTES`.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[GrammarSource, CacheEntry] = OrderedDict()
        self._lock = threading.Lock()
        self._dropped_bytes = 0

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(entry.num_bytes for entry in self._entries.values())

    def use(self, source: GrammarSource) -> tuple[CacheEntry, bool]:
        """The entry of a source, with one user more, and whether it is new, so that the caller must compile it."""
        with self._lock:
            entry = self._entries.get(source)
            new = entry is None
            if entry is None:
                entry = self._entries[source] = CacheEntry(source)
            entry.users.append(None)
            self._entries.move_to_end(source)
            return entry, new

    def drop(self, entry: CacheEntry, *, only_unused: bool = False) -> bool:
        """Forget an entry; those who use it keep it. Returns whether the cache no longer has it."""
        with self._lock:
            if only_unused and entry.users:
                return False
            if self._entries.get(entry.source) is entry:
                del self._entries[entry.source]
            return True

    def shrink(self) -> bool:
        """Drop unused grammars until the others fit. Returns whether there is room for another one: they fit, or none
        is in use.
        """
        with self._lock:
            sizes = {entry: entry.num_bytes for entry in self._entries.values() if entry.compiled.done()}
            total = sum(sizes.values())
            for source in [entry.source for entry in sizes if not entry.users]:
                if total <= self._max_bytes:
                    break
                dropped = sizes.pop(self._entries.pop(source))
                total -= dropped
                self._dropped_bytes += dropped
            release = self._dropped_bytes >= RELEASE_BYTES
            if release:
                self._dropped_bytes = 0
        if release:
            release_free_memory()
        return total <= self._max_bytes or not any(entry.users for entry in sizes)
