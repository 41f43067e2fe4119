"""The process's own memory."""

from __future__ import annotations

import ctypes
import gc


def return_freed_memory() -> None:
    """Give back to the system what was freed.

    Repacking weights leaves large holes in the heap, which glibc keeps for later; where the C library has no ``malloc_trim``, nothing happens.
    """
    gc.collect()
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return
    trim(0)
