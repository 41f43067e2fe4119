"""Keeps standard output and standard error open, which a plugin may close while it is imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from dovetail.api.errors import PluginError

NAMES = ("stdout", "stderr", "__stdout__", "__stderr__")
"""Of :mod:`sys`."""


@contextmanager
def keep_streams() -> Iterator[None]:
    """While a plugin's code runs: open again what it closes, so that the command can still say so.

    Raises:
        PluginError: it closed one.
    """
    before = {name: stream for name in NAMES if (stream := getattr(sys, name)) is not None and not stream.closed}
    numbers = {name: _file_number(stream) for name, stream in before.items()}
    closed: list[str] = []
    try:
        yield
    finally:
        for name, stream in before.items():
            if stream.closed:
                closed.append(name)
                if getattr(sys, name) is stream and (opened := _open(numbers[name])) is not None:
                    setattr(sys, name, opened)
    if closed:
        raise PluginError(f"it closed sys.{closed[0]}")


def _file_number(stream: TextIO) -> int | None:
    with suppress(OSError, ValueError):  # a stream in memory has none
        return stream.fileno()
    return None


def _open(number: int | None) -> TextIO | None:
    """A stream to an open file; None if it was closed, too, as everything but the process's own files is."""
    if number is None:
        return None
    with suppress(OSError):
        os.fstat(number)
        return open(number, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    return None
