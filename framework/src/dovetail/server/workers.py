"""Threads for work that would hold up the event loop, such as reading large bodies and tokenizing.

Small work and bulk work have different threads, so that one client's megabytes do not delay another's short prompt.
Work that has not begun is dropped when its task is cancelled, as happens when the client leaves.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

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
                    trim_memory()

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
            part = items[begin:end]
            # What belongs to much is bulk, even where the piece itself is small.
            results += await self.run(lambda part=part: [work(item) for item in part], total)  # type: ignore[misc]
            begin = end
        return results


def _find_trim() -> Callable[[int], int] | None:
    if sys.platform != "linux":
        return None
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library
        return None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return trim  # type: ignore[no-any-return]


_trim = _find_trim()


def trim_memory() -> None:
    """Give freed memory back to the system. The C library otherwise keeps it, which may be hundreds of megabytes."""
    if _trim is not None:
        _trim(0)
