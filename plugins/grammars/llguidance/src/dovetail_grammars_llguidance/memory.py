"""Measures the memory of compiled grammars, which llguidance does not tell."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import TypeVar

T = TypeVar("T")
_one_at_a_time = threading.Lock()


class _Mallinfo(ctypes.Structure):
    """What glibc's ``mallinfo2`` tells, over all threads, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
        )
    )  # fmt: skip


@cache
def _mallinfo() -> Callable[[], _Mallinfo] | None:
    try:
        function = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None  # another C library
    function.restype = _Mallinfo
    return function


def measure(make: Callable[[], T]) -> tuple[T, int]:
    """Call a function, and measure what it has allocated and not freed.

    Only one call is measured at a time, so that grammars do not count for each other. What other threads allocate or
    free meanwhile is counted, too.

    Returns:
        Its result, and the bytes; 0 if it freed more, and where the C library does not tell.
    """
    with _one_at_a_time:
        info = _mallinfo()
        before = _allocated(info)
        made = make()
        return made, max(_allocated(info) - before, 0)


def _allocated(info: Callable[[], _Mallinfo] | None) -> int:
    if info is None:
        return 0
    found = info()
    return int(found.uordblks + found.hblkhd)
