"""Threads for work that would hold up the event loop, such as reading large bodies and tokenizing.

Small work and bulk work have different threads, so that one client's megabytes do not delay another's short prompt.
Work that has not begun is dropped when its task is cancelled, as happens when the client leaves.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from dovetail.utils.process_memory import release_free_memory

T = TypeVar("T")
X = TypeVar("X")

SMALL_BYTES = 64 << 10
"""Work on inputs of more than this is bulk work: tokenizing them takes longer than about 20 ms."""
BULK_THREADS = 2
PIECE_BYTES = 256 << 10
"""Lists are worked on in pieces of about so much, one after the other, so that others get their turn between them."""
PIECE_ITEMS = 1024
TRIM_BYTES = 256 << 10
"""After work on inputs of more than this, freed memory is given back to the system."""


class Workers:
    """The threads of one server process. Most Python code holds the interpreter's lock, so more of them gain nothing."""

    def __init__(self) -> None:
        # The tokenizers library would send every text, also a short one, through one pool of threads for all texts, where
        # it waits for long ones. Without that pool each text is tokenized by the thread that asks, still without the lock.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._small = ThreadPoolExecutor(1, thread_name_prefix="dovetail-small")
        self._bulk = ThreadPoolExecutor(BULK_THREADS, thread_name_prefix="dovetail-bulk")

    async def run(self, work: Callable[[], T], size: int = 0) -> T:
        """Run work in a thread.

        Args:
            size: bytes of its input, or about the same effort.
        """
        context = copy_context()
        loop = asyncio.get_running_loop()
        if size <= SMALL_BYTES:
            return await loop.run_in_executor(self._small, context.run, work)

        def work_in_bulk() -> T:
            try:
                return context.run(work)
            finally:
                if size > TRIM_BYTES:
                    release_free_memory()

        return await loop.run_in_executor(self._bulk, work_in_bulk)

    async def map(self, work: Callable[[X], T], items: Sequence[X], sizes: Sequence[int]) -> list[T]:
        """Run work on each item, in order. Between pieces of the list it may be cancelled, and others have their turn.

        Args:
            sizes: bytes of each item.
        """
        total = sum(sizes)
        results: list[T] = []
        begin = 0
        while begin < len(items):
            end, piece = begin, 0
            while (
                end < len(items) and end - begin < PIECE_ITEMS and (end == begin or piece + sizes[end] <= PIECE_BYTES)
            ):
                piece += sizes[end]
                end += 1
            # What belongs to much is bulk, even where the piece itself is small.
            results += await self.run(partial(_apply, work, items[begin:end]), total)
            begin = end
        return results


def _apply(work: Callable[[X], T], items: Sequence[X]) -> list[T]:
    return [work(item) for item in items]
