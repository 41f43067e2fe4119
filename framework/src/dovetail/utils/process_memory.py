"""The memory of this process."""

from __future__ import annotations

import ctypes
import os


def resident_bytes() -> int:
    """Memory in use, in bytes; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def release_free_memory() -> None:
    """Return freed memory to the operating system.

    The C library keeps what was freed below memory in use, for each thread, and of large grammars that is tens of
    megabytes. It takes milliseconds. C libraries without such a function return memory themselves.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return
    trim(0)
