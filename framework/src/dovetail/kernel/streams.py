"""Keeps standard output and standard error open, which a plugin may close while it is imported."""

from __future__ import annotations

import io
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
    before = {name: stream for name in NAMES if not _is_closed(stream := getattr(sys, name))}
    numbers = {name: _file_number(stream) for name, stream in before.items()}
    closed: list[str] = []
    try:
        yield
    finally:
        closed = [name for name, stream in before.items() if _is_closed(stream)]
        for name in closed:
            if _is_closed(before[name]):  # and was not opened under another name
                _open(before[name], numbers[name])
    if closed:
        plain = [name for name in closed if name.strip("_") == name or name.strip("_") not in closed]
        raise PluginError(f"it closed {' and '.join(f'sys.{name}' for name in plain)}")


def _is_closed(stream: TextIO | None) -> bool:
    # What others put in place of a stream may have nothing but write().
    return stream is None or bool(getattr(stream, "closed", False))


def _file_number(stream: TextIO) -> int | None:
    with suppress(OSError, ValueError, AttributeError):  # a stream in memory has none
        return stream.fileno()
    return None


def _open(stream: TextIO, number: int | None) -> None:
    """Open the same object again, which others hold, too; unless its file was closed with it, as of everything but the
    process's own streams.
    """
    if number is None or not isinstance(stream, io.TextIOWrapper):
        return
    with suppress(OSError):
        os.fstat(number)
        binary = io.BufferedWriter(io.FileIO(number, "w", closefd=False))
        io.TextIOWrapper.__init__(stream, binary, "utf-8", "backslashreplace", line_buffering=True)
