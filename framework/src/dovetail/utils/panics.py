"""Failures that are no ``Exception``: a panic of a library in Rust derives from ``BaseException`` alone.

Where the work of a request ends, a panic must end like any other failure: with the error that its client gets. What
asks a program or a task to end is no failure, and goes on as it is.
"""

from __future__ import annotations

import asyncio

CONTROL_FLOW = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""What ends a program, a generator or a task on purpose."""


def reraise_control_flow(error: BaseException) -> None:
    """Raise what is no failure. To be called first in an ``except BaseException``."""
    if is_control_flow(error):
        raise error


def is_control_flow(error: BaseException) -> bool:
    """Whether an exception asks something to end, and is no failure. A group does if one of its exceptions does."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(is_control_flow, error.exceptions))
    return isinstance(error, CONTROL_FLOW)
